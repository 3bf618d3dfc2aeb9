"""Training: repeatable, resumable, blind to test rows, at ease with missing labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SMALL, SUPERVISED, TASKS, Killed, assert_same, make_cohort, with_labelled

from m3h_core import FittedModel, TaskSpec, fit
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID
from m3h_core.training import state
from m3h_core.training.trainer import Stopped, Trainer

FIRST = "network.trunk.first.weight"


@pytest.fixture(scope="module")
def cohort():
    return make_cohort()


@pytest.fixture(scope="module")
def fitted(cohort):
    return fit(cohort, TASKS, SMALL)


def _state(model: FittedModel) -> dict[str, torch.Tensor]:
    return model.model.state_dict()


def test_learns_every_problem_class(cohort, fitted):
    scores = fitted.evaluate(cohort, n_bootstrap=50)
    assert scores["death"].value > 0.8
    assert scores["stay"].value > 0.8
    assert scores["destination"].value > 0.9
    predicted = fitted.predict(cohort)
    is_labelled = cohort.labelled["stay"] & (cohort.split == TEST)
    assert (
        np.abs(predicted["stay"] - cohort.labels["stay"])[is_labelled].mean() < 5
    )  # in days, not standard deviations


def test_distances_are_those_that_the_assignments_come_from(cohort, fitted):
    (name,) = fitted.distances(cohort)
    kernel = 1 / (1 + fitted.distances(cohort)[name] ** 2)
    np.testing.assert_allclose(
        kernel / kernel.sum(1, keepdims=True), fitted.predict(cohort)[name], rtol=1e-3
    )


@pytest.mark.slow(3)
@pytest.mark.parametrize("tasks", [TASKS, TASKS[-1:]], ids=["beside others", "alone"])
def test_clusters_are_the_groups_that_were_planted(cohort, tasks):
    from sklearn.metrics import adjusted_rand_score

    assigned = fit(cohort, tasks, replace(SMALL, epochs=40)).predict(cohort)["phenotype"]
    np.testing.assert_allclose(assigned.sum(1), 1, atol=1e-6)
    assert adjusted_rand_score(cohort.groups["cluster"], assigned.argmax(1)) > 0.8


def test_number_of_clusters_is_chosen_where_not_given(cohort):
    model = fit(cohort, [TaskSpec("phenotype", "clustering")], replace(SMALL, epochs=40))
    assert model.tasks[0].n_classes == 3
    assert model.predict(cohort)["phenotype"].shape == (len(cohort), 3)
    assert model.evaluate(cohort, n_bootstrap=20)["phenotype"].value > 0.2


def test_same_seed_same_numbers(cohort, fitted):
    assert_same(fitted, fit(cohort, TASKS, SMALL))
    other = fit(cohort, TASKS, replace(SMALL, seed=1))
    assert not torch.equal(_state(fitted)[FIRST], _state(other)[FIRST])


@pytest.mark.slow(2)
@pytest.mark.parametrize("epoch", [0, 4, 7])
@pytest.mark.parametrize("tasks", [TASKS, SUPERVISED], ids=["with clusters", "supervised"])
def test_kill_and_resume_equals_no_kill(cohort, tmp_path, tasks, epoch):
    def kill(report):
        if report["epoch"] == epoch:
            raise Killed

    config = replace(SMALL, patience=SMALL.epochs)
    with pytest.raises(Killed):
        fit(cohort, tasks, config, on_epoch=kill, resume=tmp_path)
    epochs = []
    resumed = fit(
        cohort,
        tasks,
        config,
        on_epoch=lambda report: epochs.append(report["epoch"]),
        resume=tmp_path,
    )
    assert epochs[0] > 0
    assert_same(resumed, fit(cohort, tasks, config))
    assert [file.name for file in tmp_path.iterdir()] == ["training.safetensors"]


@pytest.mark.parametrize("batch", [1, 18])
def test_asked_to_stop_in_an_epoch_it_goes_on_from_that_batch(cohort, tmp_path, batch):
    asked = iter([False] * batch + [True])
    with pytest.raises(Stopped):
        fit(cohort, TASKS, SMALL, resume=tmp_path, stop=lambda: next(asked))
    batches = []
    resumed = fit(cohort, TASKS, SMALL, resume=tmp_path, stop=lambda: batches.append(1))
    whole = []
    assert_same(resumed, fit(cohort, TASKS, SMALL, stop=lambda: whole.append(1)))
    assert len(whole) - len(batches) == batch + 1


def test_learned_attention_is_trained_resumed_and_saved(cohort, tmp_path):
    config = replace(SMALL, self_bias="paper")
    asked = iter([False] * 18 + [True])
    with pytest.raises(Stopped):
        fit(cohort, TASKS, config, resume=tmp_path, stop=lambda: next(asked))
    resumed = fit(cohort, TASKS, config, resume=tmp_path)
    assert_same(resumed, fit(cohort, TASKS, config))
    attention = resumed.model.network.attention
    assert not torch.any(attention.log_temperature == 0)
    assert torch.unique(attention.own_bias).numel() == attention.own_bias.numel()
    resumed.save(tmp_path / "model")
    assert_same(FittedModel.load(tmp_path / "model"), resumed)


def test_an_epoch_of_a_large_cohort_reads_other_rows_each_time(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "_MOST_ROWS", 50)
    read: list[list[int]] = []
    train_batch = Trainer._train_batch

    def spy(self, rows):
        read[-1].extend(rows.tolist())
        return train_batch(self, rows)

    monkeypatch.setattr(Trainer, "_train_batch", spy)
    read.append([])
    config = replace(SMALL, epochs=3)
    whole = fit(cohort, SUPERVISED, config, on_epoch=lambda _: read.append([]))
    epochs = read[:3]
    assert len(cohort.rows(TRAIN)) > 100
    assert all(len(set(rows)) == len(rows) == 50 for rows in epochs)
    assert len(set().union(*epochs)) > 100
    asked = iter([False, False, False, True])
    with pytest.raises(Stopped):
        fit(cohort, SUPERVISED, config, resume=tmp_path, stop=lambda: next(asked))
    assert_same(fit(cohort, SUPERVISED, config, resume=tmp_path), whole)


def test_training_that_diverges_leaves_the_last_good_weights(cohort):
    model = fit(cohort, SUPERVISED, replace(SMALL, learning_rate=1e4))
    for values in model.predict(cohort).values():
        assert np.isfinite(values).all()


def test_finished_training_is_not_repeated(cohort, tmp_path):
    first = fit(cohort, SUPERVISED, SMALL, resume=tmp_path)
    assert_same(
        first,
        fit(cohort, SUPERVISED, SMALL, on_epoch=lambda _: pytest.fail("an epoch"), resume=tmp_path),
    )


@pytest.mark.slow(3)
def test_a_state_of_other_work_is_not_used(cohort, tmp_path):
    fit(cohort, SUPERVISED, SMALL, resume=tmp_path)
    other = replace(SMALL, seed=5)
    assert_same(fit(cohort, SUPERVISED, other, resume=tmp_path), fit(cohort, SUPERVISED, other))


def test_nothing_is_fitted_on_calibration_or_test_rows(cohort):
    """Valid rows drive early stopping; the rest of a cohort must not change a bit."""
    blind = np.isin(cohort.split, [CALIBRATION, TEST])
    changed = replace(
        cohort,
        embeddings={
            name: np.where(blind[:, None], 1e3, v).astype(np.float32)
            for name, v in cohort.embeddings.items()
        },
        labels={name: np.where(blind, 1.0, values) for name, values in cohort.labels.items()},
        labelled={name: values | blind for name, values in cohort.labelled.items()},
    )
    assert_same(fit(cohort, TASKS, SMALL), fit(changed, TASKS, SMALL))


def test_standardisation_is_fitted_on_training_rows_only(cohort):
    moved = cohort.split == VALID
    changed = replace(
        cohort,
        embeddings={
            k: np.where(moved[:, None], v + 7, v).astype(np.float32)
            for k, v in cohort.embeddings.items()
        },
    )
    a = _state(fit(cohort, SUPERVISED, SMALL))
    b = _state(fit(changed, SUPERVISED, SMALL))
    assert torch.equal(a["inputs.mean"], b["inputs.mean"])
    assert torch.equal(a["inputs.inverse_scale"], b["inputs.inverse_scale"])


def test_hook_reports_each_epoch(cohort):
    reports = []
    fit(cohort, SUPERVISED, replace(SMALL, epochs=3), on_epoch=reports.append)
    assert [report["epoch"] for report in reports] == [0, 1, 2]
    assert {report["epochs"] for report in reports} == {3}
    names = {f"{task.name}/{kind}_loss" for task in SUPERVISED for kind in ("train", "valid")}
    assert names | {"epoch", "epochs", "train_loss", "valid_loss"} == set(reports[0])
    assert reports[2]["train_loss"] < reports[0]["train_loss"]
    assert np.isfinite(list(reports[0].values())).all()


@pytest.mark.parametrize("splits", [[0], [VALID], [TEST], [0, VALID, CALIBRATION, TEST]], ids=str)
@pytest.mark.parametrize("task", [task.name for task in SUPERVISED])
def test_a_split_without_a_label_is_no_error_and_no_nan(cohort, task, splits):
    bare = with_labelled(cohort, task, ~np.isin(cohort.split, splits))
    model = fit(bare, SUPERVISED, replace(SMALL, epochs=3))
    assert all(np.isfinite(values).all() for values in model.predict(bare).values())
    score = model.evaluate(bare, n_bootstrap=20)[task]
    assert (score.n == 0) == (TEST in splits)
    assert np.isnan(score.value) == (TEST in splits)


def test_without_any_validation_label_all_epochs_are_run(cohort):
    bare = replace(
        cohort,
        labelled={name: mask & (cohort.split != VALID) for name, mask in cohort.labelled.items()},
    )
    epochs = []
    model = fit(bare, SUPERVISED, SMALL, on_epoch=lambda report: epochs.append(report["epoch"]))
    assert len(epochs) == SMALL.epochs
    assert model.evaluate(bare, n_bootstrap=20)["death"].value > 0.8


def test_one_class_constant_inputs_and_absent_modality(cohort):
    n = len(cohort)
    odd = replace(
        cohort,
        embeddings={
            "constant": np.full((n, 3), 5.0, np.float32),
            "never": np.full((n, 2), np.nan, np.float32),
        },
        present={"constant": np.ones(n, bool), "never": np.zeros(n, bool)},
        labels={**cohort.labels, "death": np.ones(n)},
    )
    predicted = fit(odd, SUPERVISED, replace(SMALL, epochs=2)).predict(odd)
    assert all(np.isfinite(values).all() for values in predicted.values())
    assert predicted["death"].min() > 0.9


def test_save_and_load_without_pickle(cohort, fitted, tmp_path):
    fitted.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    loaded = FittedModel.load(tmp_path)
    assert_same(fitted, loaded)
    assert loaded.config == fitted.config
    unlabelled = replace(cohort, labels={}, labelled={})
    for name, values in fitted.predict(cohort).items():
        assert values.dtype == np.float64
        assert values.flags.c_contiguous
        np.testing.assert_array_equal(loaded.predict(unlabelled)[name], values)
    about = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        FittedModel.load(tmp_path)


def test_wrong_labels_are_refused(cohort):
    with pytest.raises(ValueError, match="no labels for task 'sepsis'"):
        fit(cohort, [TaskSpec("sepsis", "binary")], SMALL)
    with pytest.raises(ValueError, match="from 0 to 1"):
        fit(cohort, [TaskSpec("destination", "binary")], SMALL)
    with pytest.raises(ValueError, match="training split"):
        fit(replace(cohort, split=np.full(len(cohort), TEST)), SUPERVISED, SMALL)
    with pytest.raises(ValueError, match="500 clusters"):
        fit(cohort, [TaskSpec("phenotype", "clustering", classes=500)], SMALL)
