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

from m3h_core import Cohort, FitConfig, TaskSpec, fit_many, task_interaction
from m3h_core.tim import (
    METHODS,
    TaskSetEvaluator,
    leave_one_task_out,
    measure_interaction,
    shrink_network,
    task_groups,
)
from m3h_core.tim.groups import Gain, TaskGroups
from m3h_core.tim.matrix import list_cells

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
    harmed = [(learner, rival), (learner, loner), (other, teacher), (other, rival), (other, loner)]
    assert all(interaction.matrix_TT[cell] < 0 for cell in harmed)
    assert sum(interaction.evidence_TT[cell] for cell in harmed) >= 3
    rich = [(i, j) for i in (teacher, rival, loner) for j in (teacher, rival, loner) if i != j]
    assert max(abs(interaction.matrix_TT[cell]) for cell in rich) < 0.02
    ranked = sorted(list_cells(5), key=lambda cell: interaction.matrix_TT[cell])
    assert set(ranked[: len(harmed)]) == set(harmed)


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
    before = evaluator.trained
    chosen = task_groups(evaluator, interaction, most=3)
    home = {task: group for group in chosen.groups for task in group}
    assert sorted(home) == sorted(task.name for task in evaluator.tasks)
    assert "teacher" in home["learner"]
    assert [row["models"] for row in chosen.tried] == [1, 2, 3]
    best = max(chosen.tried, key=lambda row: row["valid"])
    assert len(chosen.groups) == best["models"]
    assert chosen.gain.value == pytest.approx(best["test"] - chosen.single["test"])
    assert chosen.gain.low <= chosen.gain.value <= chosen.gain.high
    assert evaluator.trained - before <= 3 * 5  # single-task and joint models are there already
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
    interaction = task_interaction(
        cohort, SUPERVISED, "shapley", QUICK, seeds=(0, 1), n_bootstrap=40
    )
    assert interaction.models == 2 * 15
    np.testing.assert_allclose(
        interaction.matrix_TT.sum(1), interaction.joint_T - interaction.single_T, atol=1e-9
    )
    assert (interaction.source_TT == "retrained").all()
    with pytest.raises(ValueError, match="two sampled orders"):
        task_interaction(cohort, SUPERVISED, "shapley", QUICK, seeds=(0,), max_models=6)


@pytest.mark.slow(4)
def test_sampled_shapley_values_sum_too_and_lie_near_the_exact_ones(monkeypatch):
    cohort, tasks = planted(n=500, test=400)
    exact = task_interaction(cohort, tasks, "shapley", PLAIN, seeds=(0,), n_bootstrap=20)
    assert exact.models == 31
    monkeypatch.setattr("m3h_core.tim.shapley._EXACT_SHAPLEY", 4)
    monkeypatch.setattr("m3h_core.tim.shapley._ORDERS", 4)
    sampled = task_interaction(cohort, tasks, "shapley", PLAIN, seeds=(0,), n_bootstrap=20)
    assert sampled.models < exact.models
    np.testing.assert_allclose(
        sampled.matrix_TT.sum(1), sampled.joint_T - sampled.single_T, atol=1e-9
    )
    off = ~np.eye(5, dtype=bool)
    assert ((sampled.low_TT <= exact.matrix_TT) & (exact.matrix_TT <= sampled.high_TT))[
        off
    ].mean() >= 0.8
    assert np.corrcoef(sampled.matrix_TT[off], exact.matrix_TT[off])[0, 1] > 0.8


def test_affinity_comes_from_the_joint_model_alone(cohort, tmp_path):
    interaction = task_interaction(
        cohort, TASKS, "affinity", QUICK, seeds=(0, 1), n_bootstrap=20, resume=tmp_path
    )
    assert (interaction.method, interaction.unit) == ("affinity", "share of loss")
    off = ~np.eye(len(TASKS), dtype=bool)
    assert np.isfinite(interaction.matrix_TT).all()
    assert (interaction.source_TT[off] == "estimated").all()
    assert not interaction.evidence_TT.any()
    assert np.isnan(interaction.single_T).all()
    assert np.isfinite(interaction.joint_T).all()
    again = task_interaction(
        cohort, TASKS, "affinity", QUICK, seeds=(0, 1), n_bootstrap=20, resume=tmp_path
    )
    assert json.dumps(again.to_dict()) == json.dumps(interaction.to_dict())


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_looking_ahead_ends_with_training_whenever_that_stops(cohort, patience):
    config = replace(QUICK, epochs=60, patience=patience, learning_rate=0.05)
    interaction = task_interaction(cohort, THREE, "affinity", config, seeds=(0,), n_bootstrap=20)
    assert np.isfinite(interaction.matrix_TT).all()


def test_affinity_sees_the_teacher():
    """Of all tasks, the teacher is the one whose gradient the learner can use most."""
    cohort, tasks = planted()
    interaction = task_interaction(cohort, tasks, "affinity", PLAIN, seeds=range(3), n_bootstrap=20)
    others = interaction.matrix_TT[0, 2:]
    assert interaction.matrix_TT[0, 1] > others.max()


def test_matrix_holds_the_changes(cohort, tmp_path):
    seen = []
    interaction = task_interaction(
        cohort,
        THREE,
        config=QUICK,
        seeds=(0, 1),
        n_bootstrap=40,
        resume=tmp_path,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (14, 14)
    assert interaction.tasks == ("death", "shock", "stay")
    assert (np.diag(interaction.matrix_TT) == 0).all()
    assert (interaction.source_TT == "retrained").all()
    single = fit_many(cohort, [([task], QUICK) for task in THREE])
    trained = []
    reused = task_interaction(
        cohort,
        THREE,
        config=QUICK,
        seeds=(0,),
        n_bootstrap=40,
        single_models=single,
        on_progress=lambda done, total: trained.append((done, total)),
    )
    assert trained[-1] == (4, 4)
    assert reused.models == 4
    fresh = task_interaction(cohort, THREE, config=QUICK, seeds=(0,), n_bootstrap=40)
    np.testing.assert_allclose(reused.matrix_TT, fresh.matrix_TT, atol=1e-6)
    assert np.isnan(fresh.q_TT).all()  # one seed tells nothing of training's own doubt


@pytest.mark.slow(7)
def test_processes_give_the_same_matrix(cohort):
    one, two = (
        task_interaction(cohort, TASKS, config=QUICK, seeds=(0,), n_bootstrap=20, workers=workers)
        for workers in (1, 2)
    )
    np.testing.assert_allclose(one.matrix_TT, two.matrix_TT, atol=1e-6)


def test_a_budget_leaves_estimated_cells_that_say_so(cohort):
    interaction = task_interaction(
        cohort, SUPERVISED, config=QUICK, seeds=(0, 1), max_models=18, n_bootstrap=40
    )
    assert interaction.models == 18
    estimated = interaction.source_TT == "estimated"
    assert estimated.sum() == 4
    assert np.isfinite(interaction.matrix_TT).all()
    assert (interaction.low_TT[estimated] < interaction.matrix_TT[estimated]).all()
    assert np.isnan(interaction.q_TT[estimated]).all()
    assert not interaction.evidence_TT[estimated].any()
    assert np.isnan(interaction.agreement)  # of eight retrained cells nothing can be said
    with pytest.raises(ValueError, match="max_models is 2"):
        task_interaction(cohort, SUPERVISED, config=QUICK, seeds=(0,), max_models=2)


def test_a_budget_reaches_every_task():
    cohort, tasks = planted(n=300, test=300)
    interaction = task_interaction(
        cohort, tasks, config=PLAIN, seeds=(0,), max_models=6 + 4, n_bootstrap=20
    )
    retrained = (interaction.source_TT == "retrained") & ~np.eye(5, dtype=bool)
    assert retrained.sum() == 2 * 4
    assert retrained.any(1).all()


def test_a_small_network_leads_where_it_is_far_cheaper(cohort):
    """A light network's pair models are spent only where they cost less than half of what they
    lead.
    """
    seen = []
    config = replace(QUICK, hidden=(512,))
    task_interaction(
        cohort,
        SUPERVISED,
        config=config,
        seeds=(0, 1),
        max_models=18,
        n_bootstrap=20,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    light_models = 4 + 6
    assert shrink_network(config).hidden == (32,)
    assert seen[-1] == (18 + light_models, 18 + light_models)


def test_a_task_without_test_labels_has_no_number(cohort):
    bare = replace(
        cohort,
        labelled={**cohort.labelled, "shock": cohort.labelled["shock"] & (cohort.split != 3)},
    )
    for most in (None, 6):
        interaction = task_interaction(
            bare, THREE, config=QUICK, seeds=(0,), n_bootstrap=20, max_models=most
        )
        record = json.loads(json.dumps(interaction.to_dict(), allow_nan=False))
        assert record["matrix"][1][0] is None
        assert record["single"][1] is None
        assert most or record["matrix"][0][1] is not None


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
@pytest.mark.parametrize("after", [3, 24])
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
