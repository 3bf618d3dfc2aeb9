"""The recurrent trunk: the unit that PyTorch has, many at once, and what only a series can tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SMALL, Killed, assert_same
from torch import nn

from m3h_core import M3H, Cohort, FitConfig, FittedModel, TaskSpec, fit, fit_many
from m3h_core.data.cohort import TEST
from m3h_core.training.trainer import Trainer

STEPS = 6
CHANNELS = 2
TASKS = (TaskSpec("same_sign", "binary"), TaskSpec("product", "regression"))
CONFIG = replace(SMALL, hidden=(16,), steps=STEPS, linear_path=False, borrowing=False, epochs=25)
WIDTHS = {"tabular": 3, "series": STEPS * CHANNELS, "vision": 2}


def _network(**changes) -> nn.Module:
    return M3H(WIDTHS, TASKS, replace(CONFIG, **changes)).network


@pytest.fixture(scope="module")
def cohort():
    """Whether a value and the next have the same sign: no weighted sum of the columns tells."""
    rng = np.random.default_rng(0)
    n = 800
    place = rng.integers(1, STEPS, n)
    first = rng.choice([-1.0, 1.0], n)
    direction = rng.choice([-1.0, 1.0], n)
    series = np.zeros((n, STEPS, CHANNELS), np.float32)
    rows = np.arange(n)
    series[rows, place - 1, 0] = first
    series[rows, place, 0] = first * direction
    series += rng.normal(scale=0.1, size=series.shape)
    labels = {
        "same_sign": (direction > 0).astype(float),
        "product": direction + rng.normal(0, 0.1, n),
    }
    embeddings = {
        "tabular": rng.normal(size=(n, 3)).astype(np.float32),
        "series": series.reshape(n, -1),
        "vision": np.zeros((n, 2), np.float32),
    }
    present = np.ones(n, dtype=bool)
    return Cohort(
        sample_ids=[str(i) for i in range(n)],
        split=rng.choice(4, n, p=[0.55, 0.15, 0.1, 0.2]),
        embeddings=embeddings,
        present={"tabular": present, "series": present, "vision": ~present},
        labels=labels,
        labelled=dict.fromkeys(labels, present),
    )


def test_the_trunk_is_pytorchs_unit_over_the_steps():
    trunk = _network(members=1).trunk
    x_BF = torch.randn(5, sum(WIDTHS.values()) + len(WIDTHS))
    unit = nn.GRU(8, 8, batch_first=True)
    with torch.no_grad():
        unit.weight_ih_l0.copy_(trunk.weight_input[0])
        unit.weight_hh_l0.copy_(trunk.weight_state[0])
        unit.bias_ih_l0.copy_(trunk.bias_input[0])
        unit.bias_hh_l0.copy_(trunk.bias_state[0])
    series_BLC = x_BF[:, 3:15].view(5, STEPS, CHANNELS)
    static_BS = torch.cat([x_BF[:, :3], x_BF[:, 15:]], dim=1)
    statics = trunk.first.statics
    entering = nn.functional.linear(series_BLC, trunk.first.weight[0])
    entering = entering + nn.functional.linear(static_BS, statics.weight[0])[:, None]
    states_BLH, _ = unit((entering + statics.bias[0]).relu())
    expected = torch.cat([states_BLH[:, -1], states_BLH.mean(1)], dim=1)
    torch.testing.assert_close(trunk(trunk.first(x_BF))[0].T, expected)


def test_it_learns_what_no_column_and_no_sum_tells(cohort):
    score = fit(cohort, TASKS, CONFIG).evaluate(cohort, n_bootstrap=20)
    assert score["same_sign"].value > 0.95
    assert score["product"].value > 0.8
    linear = replace(CONFIG, steps=0, hidden=(2,), linear_path=True, epochs=1)
    assert fit(cohort, TASKS, linear).evaluate(cohort, n_bootstrap=20)["same_sign"].value < 0.7


def test_models_side_by_side_are_the_models_alone(cohort):
    precise = replace(CONFIG, precision="float64", epochs=4)
    jobs = [([task], replace(precise, seed=3)) for task in TASKS]
    for (tasks, config), model in zip(jobs, fit_many(cohort, jobs), strict=True):
        alone = fit(cohort, tasks, config).predict(cohort)
        for name, values in model.predict(cohort).items():
            np.testing.assert_allclose(values, alone[name], rtol=1e-9)


def test_a_kill_loses_nothing_and_a_saved_model_predicts_the_same(cohort, tmp_path, monkeypatch):
    whole = fit(cohort, TASKS, CONFIG)

    def die(state) -> None:
        if state["epoch"] == 3:
            raise Killed

    monkeypatch.setattr("m3h_core.training.checkpoint.Checkpoint.is_due", True)
    with pytest.raises(Killed):
        fit(cohort, TASKS, CONFIG, on_epoch=die, resume=tmp_path / "kept")
    resumed = fit(cohort, TASKS, CONFIG, resume=tmp_path / "kept")
    assert_same(whole, resumed)
    resumed.save(tmp_path / "model")
    loaded = FittedModel.load(tmp_path / "model")
    for name, values in whole.predict(cohort).items():
        np.testing.assert_array_equal(loaded.predict(cohort)[name], values)


def test_a_series_that_is_missing_is_a_flag_and_not_zeros(cohort):
    model = fit(cohort, TASKS, replace(CONFIG, epochs=3))
    nobody = np.zeros(len(cohort), dtype=bool)
    without = replace(cohort, present={**cohort.present, "series": nobody})
    changed = {**cohort.embeddings, "series": np.full_like(cohort.embeddings["series"], np.nan)}
    also_without = replace(without, embeddings=changed)
    for name, values in model.predict(without).items():
        assert np.isfinite(values[cohort.split == TEST]).all()
        np.testing.assert_array_equal(model.predict(also_without)[name], values)


def test_what_can_not_be_read_step_by_step_is_refused():
    with pytest.raises(ValueError, match="'series', which is not among"):
        M3H({"tabular": 3}, TASKS, CONFIG)
    with pytest.raises(ValueError, match="13 columns, which are not 6 equal steps"):
        M3H({"series": 13}, TASKS, CONFIG)
    with pytest.raises(ValueError, match="hidden must be one even size beside steps"):
        FitConfig(steps=6, hidden=(16, 8))


def test_trainers_draw_one_mask_for_all_steps(cohort):
    from m3h_core.training.prepared import Prepared

    prepared = Prepared.of(cohort, TASKS, CONFIG)
    trainer = Trainer(prepared, [prepared.new_model(TASKS, CONFIG)])
    entering, units = trainer.state.draws.dropout(4)
    assert entering.shape == (1, 8, 4)
    assert units.shape == (CONFIG.members, 16, 4)
