"""Cross-fitting: nobody is predicted by what has learned from them, and a stop changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import SMALL, SUPERVISED, TASKS, Killed, assert_same, make_cohort

from m3h_core import (
    Calibrator,
    Cohort,
    EnsembleModel,
    FoldCalibrators,
    TaskSpec,
    cross_fit,
    evaluate_predictions,
    fit,
    with_folds,
)
from m3h_core.data.cohort import VALID
from m3h_core.data.folds import seed_of_fold
from m3h_core.ensemble.fold_models import FoldModels
from m3h_core.ensemble.mixture import FoldMixtures
from m3h_core.ensemble.trees import TreeModels, fit_trees
from m3h_core.training.cross_fit import cross_fit_many, cross_fit_trees
from m3h_core.training.trainer import Stopped
from m3h_core.weighted_metrics import weighted_auroc

pytestmark = pytest.mark.slow(20)
CONFIG = replace(SMALL, epochs=3)
FOLD = 1


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return with_folds(make_cohort(300), 3)


@pytest.fixture(scope="module")
def networks(cohort) -> FoldModels:
    return cross_fit(cohort, SUPERVISED, CONFIG)


@pytest.fixture(scope="module")
def trees(cohort) -> FoldModels:
    return cross_fit_trees(cohort, SUPERVISED, rounds=5, workers=1)


@pytest.fixture(scope="module")
def other_labels(cohort) -> Cohort:
    """The cohort in which all labels of one fold are others, and many more are known."""
    is_in_fold = cohort.fold == FOLD
    wrong = {"death": 1, "shock": 0, "stay": 1e4, "destination": 2, "phenotype": 0}
    labels = {}
    labelled = {}
    for name, values in cohort.labels.items():
        labels[name] = np.where(is_in_fold, wrong[name], values)
        labelled[name] = cohort.labelled[name] | is_in_fold
    return replace(cohort, labels=labels, labelled=labelled)


def assert_only_others_change(cohort, before, after) -> None:
    """Predictions {task: [N], ...} of the fold are the same to the last bit, and not all others."""
    is_in_fold = cohort.fold == FOLD
    changed = []
    for name, values in before.items():
        assert values[is_in_fold].tobytes() == after[name][is_in_fold].tobytes(), name
        changed.append(not np.array_equal(values[~is_in_fold], after[name][~is_in_fold]))
    assert any(changed)


def test_no_network_predicts_a_patient_whose_labels_it_read(cohort, networks, other_labels):
    anew = cross_fit(other_labels, SUPERVISED, CONFIG)
    before = networks.predict_unseen(cohort)
    assert_only_others_change(cohort, before, anew.predict_unseen(cohort))


def test_no_single_task_network_either(cohort, other_labels):
    jobs = [([task], CONFIG) for task in SUPERVISED[:2]]
    before = cross_fit_many(cohort, jobs)
    after = cross_fit_many(other_labels, jobs)
    for one, other in zip(before, after, strict=True):
        assert_only_others_change(cohort, one.predict_unseen(cohort), other.predict_unseen(cohort))


def test_each_fold_s_trees_predict_its_own_rows_alone(cohort, trees, monkeypatch):
    expected = [model.predict(cohort) for model in trees.models]
    counts = []
    predict = TreeModels.predict

    def count(model, part):
        counts.append(len(part))
        return predict(model, part)

    monkeypatch.setattr(TreeModels, "predict", count)
    for name, values in trees.predict_unseen(cohort).items():
        for fold, of_model in enumerate(expected):
            rows = cohort.rows_of_fold(fold)
            assert values[rows].tobytes() == of_model[name][rows].tobytes()
    assert counts == np.bincount(cohort.fold).tolist()


def test_no_trees_either(cohort, trees, other_labels):
    anew = cross_fit_trees(other_labels, SUPERVISED, rounds=5, workers=1)
    assert_only_others_change(cohort, trees.predict_unseen(cohort), anew.predict_unseen(cohort))


def test_nobody_s_mixture_or_calibration_is_fitted_on_their_labels(
    cohort, networks, trees, other_labels
):
    """What the members predict of others being given: some of these have learned from them."""
    members = networks.predict_unseen(cohort), trees.predict_unseen(cohort)
    mixed = []
    fitted = []
    for labels in (cohort, other_labels):
        mixtures = FoldMixtures.fit(labels, SUPERVISED, *members)
        mixed.append(mixtures.apply_unseen(*members, cohort.fold))
        fitted.append(FoldCalibrators.fit(labels, SUPERVISED, mixed[0], 0.8))
    assert_only_others_change(cohort, *mixed)
    for method in ("calibrated", "sets", "intervals"):
        before, after = (getattr(one, method)(mixed[0]) for one in fitted)
        assert_only_others_change(cohort, before, after)
    # What is shipped has read them all.
    shipped = [Calibrator.fit(one, SUPERVISED, mixed[0], 0.8) for one in (cohort, other_labels)]
    assert shipped[0] != shipped[1]


def test_a_fold_s_model_is_that_of_its_cohort(cohort, networks, trees):
    part = cohort.for_fold(FOLD)
    config = replace(CONFIG, seed=seed_of_fold(CONFIG.seed, FOLD))
    assert_same(networks.models[FOLD], fit(part, SUPERVISED, config))
    alone = fit_trees(part, SUPERVISED, rounds=5, seed=config.seed, workers=1)
    assert trees.models[FOLD].texts == alone.texts


def test_without_folds_it_is_the_one_model(cohort):
    whole = replace(cohort, fold=None)
    models = cross_fit(whole, SUPERVISED, CONFIG)
    (model,) = models.models
    assert_same(model, fit(whole, SUPERVISED, CONFIG))
    expected = model.predict(whole)
    for predicted in (models.predict(whole), models.predict_unseen(whole)):
        for name, values in predicted.items():
            assert values.tobytes() == expected[name].tobytes()


def test_all_models_have_the_number_of_clusters_that_the_first_chose(cohort):
    tasks = [*SUPERVISED[:1], TaskSpec("phenotype", "clustering")]
    models = cross_fit(cohort, tasks, replace(CONFIG, epochs=1))
    numbers = {model.tasks[1].n_classes for model in models.models}
    assert len(numbers) == 1
    assert numbers != {None}
    predicted = models.predict_unseen(cohort)["phenotype"]
    np.testing.assert_array_equal(predicted, models.models[0].predict(cohort)["phenotype"])


def test_each_epoch_and_model_is_reported_with_its_fold(cohort, tmp_path):
    epochs = []
    cross_fit(
        cohort, SUPERVISED[:1], CONFIG, on_epoch=lambda fold, state: epochs.append((fold, state))
    )
    assert [(fold, state["epoch"]) for fold, state in epochs] == [
        (fold, epoch) for fold in range(3) for epoch in range(3)
    ]
    counts = []
    cross_fit_trees(
        cohort,
        SUPERVISED[:1],
        rounds=1,
        workers=1,
        on_progress=lambda *count: counts.append(count),
    )
    assert counts == [(done, 6) for done in range(1, 7)]


@pytest.fixture(scope="module")
def never_stopped(cohort) -> FoldModels:
    return cross_fit(cohort, TASKS, CONFIG)


@pytest.mark.parametrize("fold", [0, 2])
def test_stopped_in_any_fold_it_ends_with_the_same_numbers(cohort, never_stopped, tmp_path, fold):
    """Folds that were done aren't trained again."""
    reached = []

    def on_epoch(at, state):
        reached.append(at)

    with pytest.raises(Stopped):
        cross_fit(cohort, TASKS, CONFIG, on_epoch, tmp_path, stop=lambda: reached.count(fold) == 2)
    again = []
    resumed = cross_fit(cohort, TASKS, CONFIG, lambda at, state: again.append(at), tmp_path)
    assert [at for at in again if at < fold] == []
    assert again.count(fold) == 1
    for one, other in zip(resumed.models, never_stopped.models, strict=True):
        assert_same(one, other)


def test_killed_single_task_models_and_trees_go_on(cohort, tmp_path, monkeypatch):
    jobs = [([task], CONFIG) for task in SUPERVISED[:2]]

    def kill(done, total):
        assert total == 6
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        cross_fit_many(cohort, jobs, kill, tmp_path / "networks")
    resumed = cross_fit_many(cohort, jobs, resume=tmp_path / "networks")
    for one, other in zip(resumed, cross_fit_many(cohort, jobs), strict=True):
        for a, b in zip(one.models, other.models, strict=True):
            assert_same(a, b)

    settings = {"rounds": 5, "workers": 1}
    with pytest.raises(Killed):
        cross_fit_trees(
            cohort, SUPERVISED[:3], resume=tmp_path / "trees", on_progress=_kill_at(8), **settings
        )
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "trees").iterdir()}
    assert 8 <= len(kept) < 18
    resumed = cross_fit_trees(cohort, SUPERVISED[:3], resume=tmp_path / "trees", **settings)
    for name, written in kept.items():
        assert (tmp_path / "trees" / name).stat().st_mtime_ns == written
    whole = cross_fit_trees(cohort, SUPERVISED[:3], **settings)
    assert [one.texts for one in resumed.models] == [one.texts for one in whole.models]


def _kill_at(n: int):
    def kill(done, total):
        if done == n:
            raise Killed

    return kill


def test_a_task_of_random_labels_gains_nothing_from_its_near_twins():
    """A leak is planted: the twins have the same random labels, of many more patients. What the
    networks, trees and shares say of a patient must not have come of them.
    """
    # Of another seed than the cohort, whose causes begin with the same numbers.
    rng = np.random.default_rng(1)
    plain = make_cohort(900)
    noise = rng.integers(0, 2, len(plain)).astype(float)
    names = ("noise", "twin", "other_twin")
    few = (np.cumsum(np.ones(len(plain))) % 3 == 0) | (plain.split == VALID)
    labelled = dict.fromkeys(names, np.ones(len(plain), dtype=bool)) | {"noise": few}
    cohort = with_folds(
        replace(plain, labels=dict.fromkeys(names, noise), labelled=labelled),
        3,
    )
    tasks = [TaskSpec(name, "binary") for name in names]
    network = cross_fit(cohort, tasks, SMALL)
    # In-sample they do say it: there is something to leak.
    seen = [model.predict(cohort)["twin"] for model in network.models]
    everyone = replace(cohort, labelled=dict.fromkeys(names, np.ones(len(plain), dtype=bool)))
    assert weighted_auroc(noise, np.mean(seen, axis=0), np.ones((1, len(noise))))[0] > 0.55
    boosted = cross_fit_trees(cohort, tasks, rounds=20, workers=1)
    model = EnsembleModel.combine(network, boosted, cohort)
    scores = evaluate_predictions(everyone, tasks, model.predict_unseen(cohort), n_bootstrap=2)
    for name in names:
        assert abs(scores[name].value - 0.5) < 0.07
