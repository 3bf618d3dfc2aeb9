"""The cross-task attention against the paper's formula, written out."""

import math

import pytest
import torch

from m3h_core import M3H, CrossTaskAttention, FitConfig, TaskSpec
from m3h_core.model.attention import attention_weights

FORMS = ["stable", "paper", "learned"]


def _leave_the_start(attention: CrossTaskAttention) -> None:
    """Move what is learned away from where it starts."""
    generator = torch.Generator().manual_seed(7)
    for name in ("own_bias", "log_temperature"):
        if hasattr(attention, name):
            value = getattr(attention, name).data
            value += torch.randn(value.shape, generator=generator, dtype=value.dtype)


def _formula(
    attention: CrossTaskAttention, x_TD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sample, step by step as in shared/paper.md."""
    query = attention.w_task @ attention.w_query
    key = x_TD @ attention.w_key
    value = x_TD @ attention.w_value
    m = query @ key.T
    tasks = len(x_TD)
    own = torch.full((tasks,), 1.0, dtype=m.dtype)
    if attention.self_bias == "scaled":
        own += math.log(tasks)
    if attention.normalization == "learned":
        own = attention.own_bias
        n = m / (attention.log_temperature.exp() * math.sqrt(x_TD.shape[1]))
    else:
        n = m / m.max() if attention.normalization == "paper" else m / (m.abs().max() + 1e-8)
    weights = torch.softmax(own.diag() + attention.alpha * n, dim=-1)
    return weights @ value, weights


@pytest.mark.parametrize("normalization", FORMS)
@pytest.mark.parametrize("self_bias", ["paper", "scaled"])
@pytest.mark.parametrize("tasks", [1, 2, 7])
def test_equals_the_formula_in_float64(normalization, self_bias, tasks):
    torch.manual_seed(tasks)
    attention = CrossTaskAttention(
        tasks, 5, alpha=1.7, normalization=normalization, self_bias=self_bias
    ).double()
    _leave_the_start(attention)
    x_BTD = torch.randn(9, tasks, 5, dtype=torch.float64)
    o_BTD, weights_BTT = attention(x_BTD)
    for b in range(9):
        o, weights = _formula(attention, x_BTD[b])
        torch.testing.assert_close(o_BTD[b], o, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(weights_BTT[b], weights, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("normalization", FORMS)
@pytest.mark.parametrize("self_bias", ["paper", "scaled"])
def test_networks_side_by_side_equal_the_formula(normalization, self_bias):
    generator = torch.Generator().manual_seed(0)
    attention = CrossTaskAttention(
        4, 5, 1.7, normalization, self_bias, networks=3, dtype=torch.float64
    )
    attention.draw_maps_(generator)
    attention.draw_tokens_(generator)
    _leave_the_start(attention)
    x_KBTD = torch.randn(3, 9, 4, 5, generator=generator, dtype=torch.float64)
    o_KBTD, weights_KBTT = attention(x_KBTD)
    for k in range(3):
        alone = CrossTaskAttention(4, 5, 1.7, normalization, self_bias).double()
        for name, value in attention.named_parameters():
            getattr(alone, name).data = value[k].data
        for b in range(9):
            o, weights = _formula(alone, x_KBTD[k, b])
            torch.testing.assert_close(o_KBTD[k, b], o, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(weights_KBTT[k, b], weights, atol=1e-6, rtol=1e-6)


def test_the_model_attends_with_it(monkeypatch):
    """Its attention is the exported module, and its outputs are heads on what `forward` gives."""
    tasks = [TaskSpec("a", "binary"), TaskSpec("b", "multiclass", 3), TaskSpec("c", "regression")]
    config = FitConfig(hidden=(8,), width=5, members=2, linear_path=False, precision="float64")
    network = M3H({"x": 4}, tasks, config).network
    assert isinstance(network.attention, CrossTaskAttention)
    looks = []
    look = CrossTaskAttention.look
    monkeypatch.setattr(
        CrossTaskAttention, "look", lambda self, *a: looks.append(self) or look(self, *a)
    )
    state = network(torch.randn(7, 5, dtype=torch.float64))
    assert looks == [network.attention]
    o_KBTD, weights_KBTT = network.attention(state.embeddings.movedim(-1, 1))
    assert looks == [network.attention] * 2
    torch.testing.assert_close(state.weights.permute(0, 3, 2, 1), weights_KBTT)
    for output, task in enumerate(network.layout.owners):
        y_KB = (o_KBTD[:, :, task] * network.heads.weight[:, output, None]).sum(-1)
        expected = y_KB + network.heads.bias[:, output, None]
        torch.testing.assert_close(state.outputs[:, output], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("normalization", FORMS)
def test_gradients(normalization):
    torch.manual_seed(0)
    attention = CrossTaskAttention(3, 4, normalization=normalization).double()
    x_BTD = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*attention.named_parameters(), strict=True)

    def outputs(x, *values):
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(outputs, (x_BTD, *parameters))


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e4, -1e4])
@pytest.mark.parametrize("self_bias", ["paper", "scaled"])
@pytest.mark.parametrize("normalization", ["stable", "learned"])
def test_our_forms_are_finite_for_extreme_inputs(scale, self_bias, normalization):
    attention = CrossTaskAttention(6, 4, normalization=normalization, self_bias=self_bias)
    x_BTD = (torch.rand(5, 6, 4) * scale).requires_grad_()
    o_BTD, weights_BTT = attention(x_BTD)
    o_BTD.square().mean().backward()
    assert torch.isfinite(o_BTD).all()
    assert torch.isfinite(x_BTD.grad).all()
    torch.testing.assert_close(weights_BTT.sum(-1), torch.ones(5, 6))


def test_stable_form_keeps_the_order_where_all_scores_are_negative():
    scores_STB = -torch.tensor([[4.0, 1.0], [2.0, 3.0]]).unsqueeze(-1)
    off = {kind: attention_weights(scores_STB, normalization=kind) for kind in ("stable", "paper")}
    without = attention_weights(torch.zeros(2, 2, 1))
    # Task 0 scores its source 1 higher (-2) than itself (-4): the stable form leans to it, the
    # paper's turns away.
    assert off["stable"][1, 0, 0] > without[1, 0, 0] > off["paper"][1, 0, 0]


def test_the_learned_form_starts_at_the_self_bias_and_caps_nothing():
    """What "stable" leaves a task to take from another is a few percent; here it is all."""
    tasks = 44
    x_BTD = torch.randn(50, tasks, 8, generator=torch.Generator().manual_seed(0))
    capped = CrossTaskAttention(tasks, 8, self_bias="scaled")
    learned = CrossTaskAttention(tasks, 8, normalization="learned", self_bias="scaled")
    learned.load_state_dict(capped.state_dict(), strict=False)
    assert torch.all(learned.own_bias == 1.0 + math.log(tasks))
    others = ~torch.eye(tasks, dtype=torch.bool)
    learned.log_temperature.data.fill_(10.0)
    even = math.e / (math.e + (tasks - 1) / tasks)
    torch.testing.assert_close(
        learned(x_BTD)[1][:, ~others], torch.full((50, tasks), even), atol=1e-3, rtol=0
    )
    assert capped(x_BTD)[1][:, others].max() < 0.06
    learned.log_temperature.data.fill_(-4.0)
    assert learned(x_BTD)[1][:, others].max() > 0.99


@pytest.mark.parametrize("normalization", ["paper", "learned"])
def test_one_task_attends_to_itself_exactly(normalization):
    attention = CrossTaskAttention(1, 4, normalization=normalization)
    x_BTD = torch.randn(3, 1, 4)
    o_BTD, weights_BTT = attention(x_BTD)
    assert (weights_BTT == 1).all()
    torch.testing.assert_close(o_BTD, x_BTD @ attention.w_value)


def test_own_weight_at_44_tasks():
    scores_STB = torch.zeros(44, 44, 1, dtype=torch.float64)
    own = {
        bias: float(attention_weights(scores_STB, self_bias=bias)[0, 0, 0])
        for bias in ("paper", "scaled")
    }
    assert own["paper"] == pytest.approx(math.e / (math.e + 43))  # 6%: the paper's identity dilutes
    assert own["scaled"] == pytest.approx(math.e / (math.e + 43 / 44))


def test_wrong_choices_are_refused():
    with pytest.raises(ValueError, match="softmax"):
        CrossTaskAttention(2, 4, normalization="softmax")
    with pytest.raises(ValueError, match="tasks and width"):
        CrossTaskAttention(2, 4)(torch.randn(3, 4, 2))
    with pytest.raises(ValueError, match="tasks and width"):
        CrossTaskAttention(2, 4)(torch.randn(2, 4))
