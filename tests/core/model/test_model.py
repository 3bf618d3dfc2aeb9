"""The network: equal to its plain definition, sane with any subset of modalities."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from synthetic import SMALL, SUPERVISED, TASKS, WIDTHS, make_cohort

from m3h_core import M3H, CrossTaskAttention, FitConfig, TaskSpec, fit
from m3h_core.metrics import primary_metric

SUBSETS = [subset for size in range(1, 5) for subset in combinations(WIDTHS, size)]


def _plain(model: M3H, x_BF: torch.Tensor, member: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One member with nn-style layers and CrossTaskAttention: outputs [B, O] and attended
    embeddings [B, T, D].
    """
    layout = model.layout
    config = model.config
    trunk = model.network.trunk
    maps = model.network.maps
    heads = model.network.heads
    h = (x_BF @ trunk.first.weight[0].T + trunk.first.bias[0]).relu()
    if trunk.members is not None:
        h = h * trunk.members.scale[member]
    for layer in trunk.layers:
        h = (h @ layer.weight[member].T + layer.bias[member]).relu()
    if maps is not None:
        h = (h @ maps.weight[member].T + maps.bias[member]).relu()
    attention = CrossTaskAttention(
        layout.n_tasks, layout.width, config.alpha, config.normalization, config.self_bias
    ).double()
    for name, value in model.network.attention.named_parameters():
        getattr(attention, name).data = value[member].data
    x_BTD = h.view(-1, layout.n_tasks, layout.width)
    o_BTD, _ = attention(x_BTD)
    if not config.attention:
        o_BTD = x_BTD @ attention.w_value
    y = (
        torch.cat(
            [o_BTD[:, t] @ heads.weight[member, part].T for t, part in enumerate(layout.slices)],
            dim=1,
        )
        + heads.bias[member]
    )
    return y, o_BTD


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "hidden": (),
            "linear_path": False,
            "normalization": "paper",
            "self_bias": "paper",
            "members": 1,
        },
        {"members": 3},
        {"normalization": "stable"},
        {"attention": False},
        {"hidden": (9,), "alpha": 0.3},
    ],
)
@pytest.mark.parametrize("tasks", [TASKS, SUPERVISED[:3], SUPERVISED[:1]])
def test_cheap_path_equals_the_plain_network(options, tasks):
    config = FitConfig(
        **{"hidden": (10, 7), "width": 6, "members": 2, "precision": "float64"} | options
    )
    model = M3H({"a": 5, "b": 3}, tasks, config)
    generator = torch.Generator().manual_seed(1)
    for value in model.parameters():  # heads and biases start at 0
        value.data += 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    x_BF = torch.randn(11, 10, generator=generator, dtype=torch.float64)
    network = model.network
    state = network(x_BF)
    embedded = [network.attended(state, t).permute(2, 0, 1) for t in range(len(tasks))]
    for member in range(config.members):
        y, o_BTD = _plain(model, x_BF, member)
        torch.testing.assert_close(state.outputs[member].T, y, atol=1e-9, rtol=1e-9)
        for t in range(len(tasks)):
            torch.testing.assert_close(embedded[t][:, member], o_BTD[:, t], atol=1e-9, rtol=1e-9)


def test_outputs_are_the_members_mean_the_linear_path_and_what_is_borrowed():
    config = FitConfig(hidden=(10,), width=6, members=3, precision="float64")
    model = M3H({"a": 5, "b": 3}, SUPERVISED, config)
    generator = torch.Generator().manual_seed(1)
    for value in (
        *model.parameters(),
        model.linear.weight,
        model.loans.outputs,
        model.loans.inputs,
    ):
        value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    x = {"a": torch.randn(7, 5, generator=generator), "b": torch.randn(7, 3, generator=generator)}
    present = {name: torch.ones(7, dtype=torch.bool) for name in x}
    x_BF = model.inputs(x, present)
    y_BO = (
        sum(_plain(model, x_BF, member)[0] for member in range(3)) / 3
        + x_BF @ model.linear.weight.T
    )
    y_BO = y_BO @ model.loans.outputs.T + x_BF @ model.loans.inputs.T
    torch.testing.assert_close(model(x, present)["shock"], y_BO[:, 1], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(model(x, present)["destination"], y_BO[:, 3:], atol=1e-9, rtol=1e-9)


def test_forward_shapes_and_attention():
    model = M3H(WIDTHS, TASKS, SMALL)
    embeddings = {name: torch.randn(4, width) for name, width in WIDTHS.items()}
    present = {name: torch.ones(4, dtype=torch.bool) for name in WIDTHS}
    shapes = {name: tuple(y.shape) for name, y in model(embeddings, present).items()}
    assert shapes == {
        "death": (4,),
        "shock": (4,),
        "stay": (4,),
        "destination": (4, 3),
        "phenotype": (4, 3),
    }
    weights_BTT = model.attention(embeddings, present)
    assert weights_BTT.shape == (4, 5, 5)
    torch.testing.assert_close(weights_BTT.sum(-1), torch.ones(4, 5))


def test_a_missing_modality_is_a_learned_token_and_no_value_of_it_is_read():
    model = M3H(WIDTHS, SUPERVISED, replace(SMALL, linear_path=False))
    embeddings = {name: torch.randn(3, width) for name, width in WIDTHS.items()}
    present = {name: torch.ones(3, dtype=torch.bool) for name in WIDTHS}
    absent = present | {"vision": torch.zeros(3, dtype=torch.bool)}
    zeros = embeddings | {"vision": torch.zeros(3, WIDTHS["vision"])}
    unread = embeddings | {"vision": torch.full((3, WIDTHS["vision"]), torch.nan)}
    left_out = {name: embeddings[name] for name in WIDTHS if name != "vision"}
    as_missing = model(unread, absent)
    for name, y in model(left_out, absent).items():
        torch.testing.assert_close(y, as_missing[name])
    assert not torch.allclose(model(zeros, present)["death"], as_missing["death"])
    as_missing["death"].sum().backward()
    token = model.network.trunk.first.weight.grad[0, :, sum(WIDTHS.values()) + 3]
    assert token.abs().sum() > 0


@pytest.fixture(scope="module")
def fitted():
    cohort = make_cohort()
    return cohort, fit(cohort, SUPERVISED, SMALL)


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_any_subset_of_modalities_stays_sane(fitted, subset):
    cohort, model = fitted
    embeddings = {
        name: np.nan_to_num(values) for name, values in cohort.embeddings.items() if name in subset
    }
    here = type(cohort)(
        cohort.sample_ids,
        cohort.split,
        embeddings,
        {name: np.ones(len(cohort), bool) for name in subset},
        cohort.labels,
        cohort.labelled,
        cohort.subject_ids,
    )
    predicted = model.predict(here)
    for task in SUPERVISED:
        assert np.isfinite(predicted[task.name]).all()
    np.testing.assert_allclose(predicted["destination"].sum(1), 1, atol=1e-6)
    assert 0 <= predicted["death"].min() <= predicted["death"].max() <= 1
    # Every modality tells of both causes, so any one of them is better than chance.
    assert primary_metric(here, SUPERVISED[0], predicted["death"]) > 0.6
    assert np.abs(predicted["stay"] - 10).max() < 60


def test_wrong_inputs_are_refused():
    model = M3H({"a": 2}, SUPERVISED, SMALL)
    present = {"a": torch.ones(3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"must be \[3, 2\], not \[3, 4\]"):
        model({"a": torch.zeros(3, 4)}, present)
    with pytest.raises(ValueError, match="unknown modalities"):
        model({"b": torch.zeros(3, 2)}, present)
    with pytest.raises(ValueError, match="different names"):
        M3H({"a": 2}, [TaskSpec("death", "binary")] * 2)
    with pytest.raises(ValueError, match="at least 1"):
        FitConfig(members=0)
