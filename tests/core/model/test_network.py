"""The parts of the network: layers of many networks at once, models side by side, first weights."""

from dataclasses import replace

import pytest
import torch
from synthetic import SMALL, SUPERVISED, TASKS
from torch import nn

from m3h_core import M3H
from m3h_core.model.ensemble_linear import EnsembleLinear
from m3h_core.model.network import Network, keep_models


def _model(seed: int, tasks=TASKS, **changes) -> M3H:
    return M3H({"a": 5, "b": 3}, tasks, replace(SMALL, seed=seed, **changes))


def _assert_equal(a: nn.Module, b: nn.Module) -> None:
    for (name, value), other in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_an_ensemble_of_layers_equals_each_layer():
    layers = EnsembleLinear(3, 4, 2)
    layers.draw_(torch.Generator().manual_seed(0))
    nn.init.normal_(layers.bias)
    x_KIB = torch.randn(3, 4, 6)
    for k in range(3):
        expected = nn.functional.linear(x_KIB[k].T, layers.weight[k], layers.bias[k]).T
        torch.testing.assert_close(layers(x_KIB)[k], expected)
        alike = nn.functional.linear(x_KIB[0].T, layers.weight[k], layers.bias[k]).T
        torch.testing.assert_close(layers(x_KIB[0].T)[k], alike)


@pytest.mark.parametrize(
    "changes",
    [{}, {"hidden": ()}, {"members": 1}, {"attention": False}, {"normalization": "stable"}],
)
def test_models_side_by_side_are_the_models(changes):
    models = [_model(seed, linear_path=False, **changes) for seed in range(3)]
    wide = Network.side_by_side([model.network for model in models])
    assert wide.models == 3
    x_BF = torch.randn(7, 10)
    outputs = wide(x_BF).outputs.chunk(3)
    for model, output in zip(models, outputs, strict=True):
        torch.testing.assert_close(model.network(x_BF).outputs, output)
    keep_models(wide, [2, 0], 3)
    _assert_equal(wide, Network.side_by_side([models[2].network, models[0].network]))
    wide.put([1], wide, [0])
    _assert_equal(wide, Network.side_by_side([models[2].network, models[2].network]))


def test_models_of_one_seed_start_from_the_same_trunk_whatever_their_tasks():
    few = _model(4, SUPERVISED[:2]).network
    many = _model(4).network
    _assert_equal(few.trunk, many.trunk)
    assert torch.equal(few.attention.w_key, many.attention.w_key)
    assert not torch.equal(few.trunk.first.weight, _model(5).network.trunk.first.weight)


def test_starting_weights_are_no_draw_of_pytorch_and_alike_in_every_precision():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model = _model(1)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in _model(1, precision="float64").network.named_parameters():
        torch.testing.assert_close(model.network.get_parameter(name), value.float())


def test_every_parameter_is_shared_or_of_a_task():
    network = _model(0).network
    names = {name for name, _ in network.named_parameters()}
    of_tasks = {"maps.weight", "maps.bias", "heads.weight", "heads.bias"}
    of_tasks |= {"attention.w_task", "attention.own_bias"}
    assert names - network.shared_parameters().keys() - of_tasks == {"heads.centres.4"}
    assert of_tasks <= names - network.shared_parameters().keys()
    stable = _model(0, normalization="stable").network
    assert names - {name for name, _ in stable.named_parameters()} == {
        "attention.own_bias",
        "attention.log_temperature",
    }
    of_all = network.shared_parameters().keys() - stable.shared_parameters().keys()
    assert of_all == {"attention.log_temperature"}


def test_the_learned_form_draws_what_the_others_draw():
    """So that its arm differs from theirs by its form alone."""
    parameters = dict(_model(0).network.named_parameters())
    for name, value in _model(0, normalization="stable").network.named_parameters():
        assert torch.equal(parameters[name], value)
