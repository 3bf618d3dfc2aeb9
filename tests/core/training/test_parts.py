"""The trainer's parts, each alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SMALL, SUPERVISED, TASKS, WIDTHS, make_cohort

from m3h_core import FitConfig, fit
from m3h_core.files import read_tensors, write_tensors
from m3h_core.training.best_weights import BestWeights
from m3h_core.training.checkpoint import Checkpoint
from m3h_core.training.cluster_targets import ClusterTargets
from m3h_core.training.draws import Draws
from m3h_core.training.early_stopping import EarlyStopping
from m3h_core.training.optimizer import Optimizer
from m3h_core.training.prepared import Prepared
from m3h_core.training.wide import WideModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared():
    return Prepared.of(make_cohort(), TASKS, SMALL)


def test_the_optimizer_is_pytorchs_adamw_over_two_groups(prepared):
    network = prepared.new_model(TASKS, SMALL).network
    twin = prepared.new_model(TASKS, SMALL).network
    ours = Optimizer(network, learning_rate=0.01, weight_decay=0.5)
    decayed = [p for name, p in twin.named_parameters() if name.endswith("weight")]
    others = [p for name, p in twin.named_parameters() if not name.endswith("weight")]
    reference = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=0.01,
        weight_decay=0.5,
        fused=True,
    )
    x_BF = prepared.data.x_train[:20]
    for _ in range(3):
        for one in (network, twin):
            one(x_BF).outputs.square().sum().backward()
        ours.step()
        reference.step()
        reference.zero_grad()
    for value, expected in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(value, expected)
    assert not ours.gradients()


def test_the_parts_of_the_network_say_what_decays(prepared):
    groups = Optimizer(prepared.new_model(TASKS, SMALL).network, 0.1, 0.1).groups
    assert groups[True] == [
        "trunk.first.weight",
        "trunk.layers.0.weight",
        "maps.weight",
        "heads.weight",
    ]
    assert {"attention.w_value", "trunk.members.scale", "heads.centres.4"} <= set(groups[False])
    assert {"attention.own_bias", "attention.log_temperature"} <= set(groups[False])


def test_the_optimizers_state_travels_and_models_leave_it(prepared):
    models = [prepared.new_model(SUPERVISED, replace(SMALL, seed=seed)) for seed in range(3)]
    wide = WideModel(prepared, models, CPU)
    optimizer = Optimizer(wide.network, 0.1, 0.1)
    wide.network(wide.x_train_nF).outputs.square().sum().backward()
    optimizer.step()
    state = {name: value.clone() for name, value in optimizer.state_dict().items()}
    wide.keep([2])
    optimizer.keep([2], models=3)
    name = "attention.w_key"
    assert torch.equal(optimizer.moments[name].first, state[f"first/{name}"][-SMALL.members :])
    again = Optimizer(wide.network, 0.1, 0.1)
    again.load_state_dict(state)
    assert torch.equal(again.moments[name].second, state[f"second/{name}"])


def test_a_model_that_is_blind_or_has_diverged():
    stopping = EarlyStopping(models=2, patience=2)
    for epoch in range(3):
        improved, going = stopping.judge(epoch, [0, 1], [None, math.nan])
        assert improved == [0]
        assert going == ([0, 1] if epoch < 1 else [0])
    again = EarlyStopping(models=2, patience=2)
    again.load_state_dict(stopping.state_dict())
    assert again.best_epoch == [2, -1]
    assert again.best_loss == [math.inf, math.inf]


def test_the_average_is_a_mean_at_first_and_the_best_is_kept(prepared):
    network = prepared.new_model(SUPERVISED, SMALL).network
    weights = BestWeights(network, averaging=0.5)
    bias = network.heads.bias.data
    bias.fill_(1.0)
    weights.follow(network, epoch=0)
    bias.fill_(2.0)
    weights.follow(network, epoch=1)
    assert torch.all(weights.average.heads.bias == 1.5)
    weights.take([0], [0])
    bias.fill_(9.0)
    weights.follow(network, epoch=2)
    assert torch.all(weights.best.heads.bias == 1.5)


def test_draws_depend_on_the_seed_alone_and_leave_a_row_something():
    config = FitConfig(seed=3, modality_dropout=0.9)
    x_BF = torch.ones(50, sum(WIDTHS.values()) + len(WIDTHS))
    x_BF[:, -len(WIDTHS) :] = 0
    x_BF[:25, -1] = 1
    a, lost = Draws(config, WIDTHS, CPU).corrupt(x_BF.clone())
    b, _ = Draws(config, WIDTHS, CPU).corrupt(x_BF.clone())
    assert torch.equal(a, b)
    flags = a[:, -len(WIDTHS) :]
    assert torch.all(flags.sum(1) < len(WIDTHS))
    assert torch.all(flags[:25, -1] == 1)
    assert lost[:, :3].sum() > 20
    assert lost[:25, -1].sum() == 0


def test_clusters_start_at_their_epoch_and_their_targets_are_sharper(prepared):
    config = replace(SMALL, cluster_start=2, cluster_refresh=3)
    wide = WideModel(prepared, [prepared.new_model(TASKS, config)], CPU)
    clusters = ClusterTargets(wide)
    before = wide.network.heads.centres["4"].clone()
    assert [clusters.refresh(epoch) for epoch in range(2)] == [False, False]
    assert clusters.targets == {}
    assert clusters.refresh(2)
    assert not torch.equal(wide.network.heads.centres["4"], before)
    parts = [wide.network.heads.assign(z, 4) for z in wide.embedded(wide.network, 4)]
    q_Gnc = torch.cat(parts, dim=1)
    assert clusters.targets[4].max(-1).values.mean() > q_Gnc.max(-1).values.mean()
    assert not clusters.refresh(5)


def test_a_checkpoint_of_other_work_is_left_alone_and_writing_waits(tmp_path):
    checkpoint = Checkpoint(tmp_path, key="a")
    assert checkpoint.read(CPU) is None
    assert checkpoint.is_due
    checkpoint.write({"x": torch.ones(2)}, {"epoch": 3})
    tensors, about = checkpoint.read(CPU)
    assert torch.equal(tensors["x"], torch.ones(2))
    assert about["epoch"] == 3
    assert Checkpoint(tmp_path, key="b").read(CPU) is None
    checkpoint.cost = 1e6
    assert not checkpoint.is_due
    other = Checkpoint(tmp_path / "other", key="a", is_writer=False)
    other.write({"x": torch.ones(2)}, {})
    assert not other.file.exists()


def test_a_state_of_an_earlier_version_is_not_used(tmp_path):
    """It held parameters by other names, under a key of its own."""
    cohort = make_cohort()
    fit(cohort, SUPERVISED, SMALL, resume=tmp_path)
    file = tmp_path / "training.safetensors"
    _, about = read_tensors(file)
    write_tensors(file, {"now/first_weight": torch.ones(1)}, about | {"key": "earlier"})
    epochs = []
    fit(cohort, SUPERVISED, SMALL, on_epoch=epochs.append, resume=tmp_path)
    assert epochs[0]["epoch"] == 0


def test_without_validation_rows_all_that_is_chosen_by_them_stands():
    cohort = make_cohort()
    bare = replace(cohort, split=np.where(cohort.split == 1, 0, cohort.split))
    predicted = fit(bare, SUPERVISED, replace(SMALL, epochs=3)).predict(bare)
    assert all(np.isfinite(values).all() for values in predicted.values())
