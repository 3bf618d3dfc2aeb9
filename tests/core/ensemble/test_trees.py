"""Boosted trees as a member: what they learn, what stands where nothing can be learned, how they
travel.
"""

from dataclasses import replace

import lightgbm
import numpy as np
import pytest
from synthetic import TASKS, make_cohort

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TRAIN, VALID
from m3h_core.ensemble.trees import TreeModels, fit_trees

pytestmark = pytest.mark.slow(5)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_cohort(300)


@pytest.fixture(scope="module")
def trees(cohort) -> TreeModels:
    return fit_trees(cohort, TASKS, rounds=10, workers=1)


def test_each_task_but_clusters_is_predicted_in_its_own_form(cohort, trees):
    predictions = trees.predict(cohort)
    assert set(predictions) == {task.name for task in TASKS if task.problem != "clustering"}
    for task in trees.tasks:
        values = predictions[task.name]
        if task.problem == "multiclass":
            np.testing.assert_allclose(values.sum(1), 1)
        else:
            assert values.shape == (len(cohort),)
        if task.problem == "binary":
            assert ((values > 0) & (values < 1)).all()


def test_they_travel_as_text_and_predict_the_same(cohort, trees, tmp_path):
    trees.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".txt", ".json"}
    again = TreeModels.load(tmp_path).predict(cohort)
    for name, values in trees.predict(cohort).items():
        assert again[name].tobytes() == values.tobytes()


def test_any_number_of_processes_gives_the_same_trees(cohort, trees):
    assert fit_trees(cohort, TASKS, rounds=10, workers=2).texts == trees.texts


def test_a_task_has_the_same_trees_alone_as_among_others_that_share_its_rows(cohort):
    """Whatever a process keeps from one model to the next is no part of the next."""
    everyone = np.logical_and.reduce(list(cohort.labelled.values()))
    labelled = dict.fromkeys(cohort.labelled, everyone)
    tasks = [task for task in TASKS if task.problem != "clustering"]
    labelled[tasks[-1].name] = everyone & (cohort.split != VALID)
    mixed = replace(cohort, labelled=labelled)
    together = fit_trees(mixed, tasks, rounds=10, workers=1)
    for task in tasks:
        alone = fit_trees(mixed, [task], rounds=10, workers=1)
        assert alone.texts[task.name] == together.texts[task.name]


def test_inputs_are_binned_once_for_all_models_of_the_same_rows(cohort, monkeypatch):
    n_rows = []
    construct = lightgbm.Dataset.construct

    def count(data):
        if data._handle is None and data.reference is None:
            n_rows.append(len(data.data))
        return construct(data)

    monkeypatch.setattr(lightgbm.Dataset, "construct", count)
    labels = {name: np.arange(len(cohort)) % 2 for name in ("one", "few", "other")}
    labelled = dict.fromkeys(labels, np.ones(len(cohort), dtype=bool))
    labelled["few"] = np.arange(len(cohort)) >= 50
    shared = replace(cohort, labels=labels, labelled=labelled)
    fit_trees(shared, [TaskSpec(name, "binary") for name in labels], rounds=2, workers=1)
    assert len(n_rows) == len(set(n_rows)) == 2


def test_a_task_of_one_kind_of_label_is_predicted_by_its_mean(cohort, tmp_path):
    labels = {"never": np.zeros(len(cohort)), "where": np.zeros(len(cohort))}
    labelled = dict.fromkeys(labels, cohort.split == TRAIN)
    one_kind = Cohort(
        cohort.sample_ids, cohort.split, cohort.embeddings, cohort.present, labels, labelled
    )
    tasks = [TaskSpec("never", "binary"), TaskSpec("where", "multiclass", classes=3)]
    trees = fit_trees(one_kind, tasks, workers=1)
    trees.save(tmp_path)
    predictions = TreeModels.load(tmp_path).predict(one_kind)
    assert (predictions["never"] == 0).all()
    assert predictions["where"].shape == (len(cohort), 3)
    assert (predictions["where"].argmax(1) == 0).all()


def test_a_modality_that_is_lacking_counts_as_missing_and_another_width_is_refused(cohort, trees):
    first = next(iter(cohort.embeddings))
    rest = {name: values for name, values in cohort.embeddings.items() if name != first}
    lacking = Cohort(
        cohort.sample_ids, cohort.split, rest, {n: cohort.present[n] for n in rest}, {}, {}
    )
    absent = cohort.present | {first: np.zeros(len(cohort), bool)}
    nobody = Cohort(cohort.sample_ids, cohort.split, cohort.embeddings, absent, {}, {})
    for name, values in trees.predict(nobody).items():
        assert trees.predict(lacking)[name].tobytes() == values.tobytes()
    wider = cohort.embeddings | {first: np.zeros((len(cohort), 99), np.float32)}
    with pytest.raises(ValueError, match=f"{first}: the trees read .* columns, not 99"):
        trees.predict(Cohort(cohort.sample_ids, cohort.split, wider, cohort.present, {}, {}))
