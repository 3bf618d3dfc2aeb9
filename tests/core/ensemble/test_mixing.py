"""How much a member counts, and the mixture as one model."""

import torch
from synthetic import SMALL, TASKS, make_cohort

from m3h_core.ensemble.mixing import choose_mixture, fold_ridge
from m3h_core.training.prepared import Prepared


def test_each_task_of_each_model_takes_what_is_best_for_it():
    truth = torch.randn(2, 3, 40)
    members = [truth + 1.0, truth - 1.0, truth + 5.0]
    members[0][1, 2] = truth[1, 2]

    def loss_fn(outputs: torch.Tensor) -> torch.Tensor:
        return (outputs - truth).square().mean(-1)

    weights_EGT = choose_mixture(
        members,
        loss_fn,
        torch.full((2, 3), 40),
        mixtures=[(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0)],
    )
    assert weights_EGT.shape == (3, 2, 3)
    assert weights_EGT[:, 0, 0].tolist() == [0.5, 0.5, 0.0]
    assert weights_EGT[:, 1, 2].tolist() == [1.0, 0.0, 0.0]


def test_a_folded_mixture_says_what_its_members_say():
    prepared = Prepared.of(make_cohort(), TASKS, SMALL)
    model = prepared.new_model(TASKS, SMALL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (model.network.heads.weight, model.network.heads.bias):
            value.add_(torch.randn(value.shape, generator=generator))
    x_BF = prepared.data.x_valid
    adding = 0.5
    with torch.no_grad():
        alone = model.network(x_BF).outputs.mean(0)
        linear = model.linear(x_BF)
        rows = prepared.ridge.rows_of(model.tasks, model.layout.outputs)
        bias_O = prepared.ridge.bias[rows]
        share_O = torch.linspace(0, 1, model.layout.n_outputs)
        network = alone + adding * linear
        ridge = linear + bias_O.unsqueeze(1)
        expected = share_O.unsqueeze(1) * network + (1 - share_O).unsqueeze(1) * ridge
        fold_ridge(model, share_O, bias_O, adding)
        torch.testing.assert_close(model.own_outputs(x_BF), expected, atol=1e-4, rtol=1e-4)
