"""Task interaction on planted structure: signs, ranking, resuming, budgets, and what the intervals
are worth.
"""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SUPERVISED, TASKS, make_cohort

from m3h_core import Cohort, FitConfig, TaskSpec, cross_fit, fit_many, task_interaction, with_folds
from m3h_core.tim import (
    METHODS,
    TaskSetEvaluator,
    leave_one_task_out,
    measure_interaction,
    measure_joint_learning,
    task_groups,
)
from m3h_core.tim.evaluator import Training
from m3h_core.tim.groups import Gain, TaskGroups
from m3h_core.tim.matrix import list_cells
from m3h_core.training.cross_fit import cross_fit_many

THREE = SUPERVISED[:3]
QUICK = FitConfig(hidden=(12,), width=4, members=1, epochs=4)
# A network that can learn a planted cause from many labels, and is led astray from few.
PLAIN = FitConfig(
    hidden=(32,),
    width=4,
    members=1,
    epochs=40,
    patience=10,
    linear_path=False,
    borrowing=False,
    weight_decay=0.1,
    learning_rate=0.01,
    dropout=0.0,
    balance=0.0,
    # As the small network of pairs has it (shrink_network).
    normalization="stable",
)


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(300)


def planted(
    seed: int = 0, n: int = 1000, test: int = 1500, width: int = 40
) -> tuple[Cohort, list[TaskSpec]]:
    """A learner with few labels, a teacher of the same cause with many, and two rivals that have
    causes of their own.

    A fifth task has few labels and no relative.
    """
    rng = np.random.default_rng(seed)
    train = int(0.7 * n)
    x = rng.normal(size=(n + test, width)).astype(np.float32)
    split = np.repeat([0, 1, 3], [train, n - train, test])
    causes = x @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    labels = {}
    labelled = {}
    for name, cause, few in (
        ("learner", 0, True),
        ("teacher", 0, False),
        ("rival", 1, False),
        ("loner", 2, False),
        ("other", 3, True),
    ):
        labels[name] = (3 * causes[:, cause] + rng.logistic(size=n + test) > 0).astype(float)
        labelled[name] = np.ones(n + test, bool)
        if few:
            labelled[name][:train] = False
            labelled[name][rng.choice(train, 50, replace=False)] = True
    ids = [str(i) for i in range(n + test)]
    cohort = Cohort(ids, split, {"x": x}, {"x": np.ones(n + test, bool)}, labels, labelled)
    return cohort, [TaskSpec(name, "binary") for name in labels]


@pytest.fixture(scope="module")
def structure():
    """The planted tasks, measured with six seeds."""
    torch.set_num_threads(1)
    cohort, tasks = planted()
    evaluator = TaskSetEvaluator(cohort, tasks, PLAIN, range(6))
    return evaluator, measure_interaction(evaluator)


@pytest.mark.slow(13)
def test_planted_help_harm_and_indifference_are_found(structure):
    _, interaction = structure
    learner, teacher, rival, loner, other = range(5)
    assert interaction.matrix_TT[learner, teacher] == interaction.matrix_TT.max()
    assert interaction.evidence_TT[learner, teacher]
    assert interaction.low_TT[learner, teacher] > 0
    assert interaction.gain_TT[learner, teacher] > 0
    assert not interaction.stopped_TT[learner, teacher]
    assert (interaction.q_TT[interaction.stopped_TT] == 1).all()
    harmed = [(other, teacher), (other, rival), (other, loner)]
    assert all(interaction.matrix_TT[cell] < -0.03 for cell in harmed)
    assert all(interaction.gain_TT[cell] < 0 for cell in harmed)
    rich = [(i, j) for i in (teacher, rival, loner) for j in (teacher, rival, loner) if i != j]
    assert max(abs(interaction.matrix_TT[cell]) for cell in rich) < 0.02


@pytest.mark.parametrize(
    ("single_valid", "gain_over_joint", "best", "advised"),
    [
        (0.60, (0.010, 0.004, 0.016), "groups", True),
        (0.60, (-0.014, -0.020, 0.002), "groups", False),
        (0.646, (0.010, 0.004, 0.016), "single", False),
    ],
    ids=["both splits agree", "it loses on test", "one model a task is better"],
)
def test_groups_are_advised_only_where_both_splits_say_so(
    single_valid, gain_over_joint, best, advised
):
    tried = (
        {"models": 1, "valid": 0.630, "test": 0.62},
        {"models": 2, "valid": 0.641, "test": 0.63},
    )
    single = {"valid": single_valid, "test": 0.61}
    groups = TaskGroups(
        (("a", "b"), ("c",)), tried, single, Gain(0.01, 0.004, 0.016), Gain(*gain_over_joint)
    )
    record = groups.to_dict()
    assert (record["best"], record["advised"]) == (best, advised)


@pytest.mark.slow(3)
def test_groups_keep_the_learner_with_its_teacher(structure):
    evaluator, interaction = structure
    chosen = task_groups(evaluator, interaction, most=3)
    home = {task: group for group in chosen.groups for task in group}
    assert sorted(home) == sorted(task.name for task in evaluator.tasks)
    assert "teacher" in home["learner"]
    assert [row["models"] for row in chosen.tried] == [1, 2, 3]
    best = max(chosen.tried, key=lambda row: row["valid"])
    assert len(chosen.groups) == best["models"]
    assert chosen.gain.value == pytest.approx(best["test"] - chosen.single["test"])
    assert chosen.gain.low <= chosen.gain.value <= chosen.gain.high
    assert json.dumps(chosen.to_dict())


@pytest.mark.slow(4)
def test_leaving_the_teacher_out_costs_the_learner(structure):
    evaluator, interaction = structure
    without = leave_one_task_out(evaluator, interaction, count=5)
    assert without.tasks == interaction.tasks
    assert without.cells == 20
    assert (
        without.matrix_TL[0].argmax() == 1
        if np.isfinite(without.matrix_TL[0, 0])
        else without.matrix_TL[0, 1] > 0
    )
    assert np.isnan(np.diag(without.matrix_TL)).all()
    assert -1 <= without.spearman <= 1
    assert json.dumps(without.to_dict())


def test_shapley_values_sum_to_what_joint_learning_gains(cohort):
    interaction = task_interaction(cohort, SUPERVISED, "shapley", QUICK, seeds=(0, 1))
    assert interaction.models == 2 * 15
    assert not interaction.stopped_TT.any()
    np.testing.assert_allclose(
        interaction.matrix_TT.sum(1), interaction.joint_T - interaction.single_T, atol=1e-9
    )


@pytest.mark.slow(4)
def test_sampled_shapley_values_sum_too_and_lie_near_the_exact_ones(monkeypatch):
    cohort, tasks = planted(n=500, test=400)
    exact = task_interaction(cohort, tasks, "shapley", PLAIN, seeds=(0,))
    assert exact.models == 31
    monkeypatch.setattr("m3h_core.tim.shapley._EXACT_SHAPLEY", 4)
    monkeypatch.setattr("m3h_core.tim.shapley._ORDERS", 4)
    sampled = task_interaction(cohort, tasks, "shapley", PLAIN, seeds=(0,))
    assert sampled.models < exact.models
    np.testing.assert_allclose(
        sampled.matrix_TT.sum(1), sampled.joint_T - sampled.single_T, atol=1e-9
    )
    off = ~np.eye(5, dtype=bool)
    assert ((sampled.low_TT <= exact.matrix_TT) & (exact.matrix_TT <= sampled.high_TT))[
        off
    ].mean() >= 0.8
    assert np.corrcoef(sampled.matrix_TT[off], exact.matrix_TT[off])[0, 1] > 0.8


def test_matrix_holds_the_changes(cohort, tmp_path):
    seen = []
    interaction = task_interaction(
        cohort,
        THREE,
        config=QUICK,
        seeds=(0, 1),
        resume=tmp_path,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    # Of two seeds: single-task models with both, each pair with one, and a pair that may survive
    # with the other.
    stopped = int(interaction.stopped_TT.sum()) // 2
    assert seen[-1] == (6 + 3 + 3 - stopped,) * 2
    assert interaction.tasks == ("death", "shock", "stay")
    assert (np.diag(interaction.matrix_TT) == 0).all()
    single = fit_many(cohort, [([task], QUICK) for task in THREE])
    trained = []
    reused = task_interaction(
        cohort,
        THREE,
        config=QUICK,
        seeds=(0,),
        single_models=single,
        on_progress=lambda done, total: trained.append((done, total)),
    )
    assert trained[-1] == (3, 3)
    assert reused.models == 3
    fresh = task_interaction(cohort, THREE, config=QUICK, seeds=(0,))
    np.testing.assert_allclose(reused.matrix_TT, fresh.matrix_TT, atol=1e-6)
    assert np.isnan(fresh.q_TT).all()  # one seed tells nothing of training's own doubt


@pytest.mark.slow(7)
def test_processes_give_the_same_matrix(cohort):
    one, two = (
        task_interaction(cohort, TASKS, config=QUICK, seeds=(0,), workers=workers)
        for workers in (1, 2)
    )
    np.testing.assert_allclose(one.matrix_TT, two.matrix_TT, atol=1e-6)


def test_a_task_without_test_labels_has_no_number(cohort):
    bare = replace(
        cohort,
        labelled={**cohort.labelled, "shock": cohort.labelled["shock"] & (cohort.split != 3)},
    )
    interaction = task_interaction(bare, THREE, config=QUICK, seeds=(0, 1))
    record = json.loads(json.dumps(interaction.to_dict(), allow_nan=False))
    assert record["matrix"][1][0] is None
    assert record["single"][1] is None
    assert record["q"][1][0] is None
    assert record["matrix"][0][1] is not None


def test_where_no_task_can_be_judged_there_is_no_mean(cohort):
    nobody = {name: labelled & (cohort.split != 3) for name, labelled in cohort.labelled.items()}
    evaluator = TaskSetEvaluator(replace(cohort, labelled=nobody), THREE, QUICK, (0, 1))
    record = json.loads(json.dumps(measure_joint_learning(evaluator).to_dict(), allow_nan=False))
    assert record["mean"] == {"value": None, "low": None, "high": None}


def test_every_patient_of_a_cross_fitted_cohort_judges(cohort):
    """By models that did not see them, which have seeds of their own in each fold."""
    folds = with_folds(cohort, 3)
    evaluator = TaskSetEvaluator(folds, THREE, QUICK, (0, 1), n_components=4)
    interaction = measure_interaction(evaluator)
    assert (interaction.folds, interaction.seeds) == (3, 2)
    assert evaluator.count_judged(0) == int(cohort.labelled["death"].sum())
    stopped_after_one_fold = [
        cell for cell in list_cells(3) if evaluator.lacking([tuple(sorted(cell))], None, [0])
    ]
    assert all(interaction.stopped_TT[cell] for cell in stopped_after_one_fold)
    assert (interaction.q_TT[interaction.stopped_TT] == 1).all()
    assert all(fold.cohort.widths == {"components": 4} for fold in evaluator.folds)
    seeds = {
        evaluator._configure(Training((0,), fold, seed)).seed
        for fold in range(3)
        for seed in range(2)
    }
    assert len(seeds) == 6


def test_what_all_tasks_together_do_is_told_by_the_models_of_cross_fitting(cohort):
    folds = with_folds(cohort, 2)
    evaluator = TaskSetEvaluator(folds, THREE, QUICK, (0,))
    singles = cross_fit_many(folds, [([task], QUICK) for task in THREE])
    joint = cross_fit(folds, THREE, QUICK)
    for fold in range(2):
        evaluator.reuse([joint.models[fold], *(single.models[fold] for single in singles)], fold)
    measured = measure_joint_learning(evaluator)
    assert evaluator.trained == 0
    np.testing.assert_allclose(measured.change_T, measured.joint_T - measured.single_T)
    assert measured.mean.value == pytest.approx(measured.gain_T.mean())
    assert measured.mean.low < measured.mean.value < measured.mean.high
    assert np.isfinite(measured.q_T).all()  # folds tell how much training varies
    fresh = measure_joint_learning(TaskSetEvaluator(folds, THREE, QUICK, (0,)))
    np.testing.assert_allclose(measured.gain_T, fresh.gain_T, atol=1e-6)
    first = evaluator.narrow(0)
    assert len(first.folds) == 1
    assert not first.lacking([(0,), (1,), (2,), (0, 1, 2)])


def test_wrong_arguments_are_refused(cohort):
    with pytest.raises(ValueError, match=f"'magic' is not one of {', '.join(METHODS)}"):
        task_interaction(cohort, THREE, method="magic", config=QUICK)
    with pytest.raises(ValueError, match="at least two tasks"):
        task_interaction(cohort, THREE[:1], config=QUICK)


def _measure_and_die(folder: str, after: int) -> None:
    def progress(done: int, _: int) -> None:
        if done >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    task_interaction(
        make_cohort(300), TASKS, config=QUICK, seeds=(0, 1), resume=folder, on_progress=progress
    )


@pytest.mark.slow(9)
@pytest.mark.parametrize("after", [3, 16])
def test_a_kill_loses_at_most_a_chunk(after, tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=_measure_and_die, args=(str(tmp_path), after)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("chunk-*")}
    torch.set_num_threads(1)
    # Of two seeds: four single-task models are one chunk, six pairs another; four that cluster
    # beside them another two.
    largest = 6
    resumed = task_interaction(make_cohort(300), TASKS, config=QUICK, seeds=(0, 1), resume=tmp_path)
    models = [file for file in tmp_path.glob("chunk-*") if file.name not in kept]
    assert after < largest or kept
    assert all((tmp_path / name).stat().st_mtime_ns == written for name, written in kept.items())
    assert len(models) < len(list(tmp_path.glob("chunk-*"))) or not kept
    whole = task_interaction(make_cohort(300), TASKS, config=QUICK, seeds=(0, 1))
    assert json.dumps(resumed.to_dict()) == json.dumps(whole.to_dict())


def test_a_second_run_is_a_second(cohort, tmp_path):
    """Nothing is trained again that is kept."""
    task_interaction(cohort, TASKS, config=QUICK, seeds=(0,), resume=tmp_path)
    files = sorted(tmp_path.iterdir())
    written = [file.stat().st_mtime_ns for file in files]
    time.sleep(0.01)
    task_interaction(cohort, TASKS, config=QUICK, seeds=(0,), resume=tmp_path)
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())] == written
