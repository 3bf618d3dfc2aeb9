"""The network's share of an ensemble: one half where labels are few, what they bear out where they
are many.
"""

import numpy as np
import pytest

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TEST, TRAIN, VALID
from m3h_core.ensemble.shares import EQUAL, fit_network_shares, mix_predictions

BINARY = TaskSpec("death", "binary")
REGRESSION = TaskSpec("stay", "regression", unit="days")
MULTICLASS = TaskSpec("destination", "multiclass", classes=3)


def draw_members(
    task: TaskSpec, n: int, seed: int, prevalence: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a member that knows the truth's distribution, and one that knows nothing."""
    rng = np.random.default_rng(seed)
    if task.problem == "regression":
        signal = rng.normal(size=n)
        return signal + rng.normal(size=n), signal, np.zeros(n)
    if task.problem == "binary":
        risk = np.clip(rng.beta(prevalence, 1 - prevalence, size=n), 0.001, 0.999)
        return (rng.random(n) < risk).astype(float), risk, np.full(n, prevalence)
    risk = rng.dirichlet([0.5] * 3, size=n)
    y_true = (rng.random(n)[:, None] > risk.cumsum(1)).sum(1).astype(float)
    return y_true, risk, np.full((n, 3), 1 / 3)


def fit_share(task: TaskSpec, y_true: np.ndarray, network: np.ndarray, trees: np.ndarray) -> float:
    """The network's share of a task that is alone, by validation rows alone."""
    n = len(y_true)
    cohort = Cohort(
        [str(row) for row in range(n)],
        np.full(n, VALID),
        {},
        {},
        {task.name: y_true},
        {task.name: np.ones(n, dtype=bool)},
    )
    members = {task.name: network}, {task.name: trees}
    return fit_network_shares(cohort, [task], *members, cohort.rows(VALID))[task.name]


@pytest.mark.parametrize("task", [BINARY, REGRESSION, MULTICLASS], ids=lambda task: task.problem)
def test_many_labels_find_who_is_right_and_few_hardly_move(task):
    shares = {}
    for n in (0, 10, 20_000):
        y_true, right, wrong = draw_members(task, n, seed=1)
        shares[n] = fit_share(task, y_true, right, wrong), fit_share(task, y_true, wrong, right)
    assert shares[0] == (EQUAL, EQUAL)
    assert shares[20_000][0] > 0.9
    assert shares[20_000][1] < 0.1
    for share in shares[10]:
        assert abs(share - EQUAL) < 0.15
    assert sum(shares[10]) == pytest.approx(1, abs=0.02)  # neither member is favoured


def test_a_rare_class_counts_by_its_positives():
    """As many rows, fewer of them tell: the share stays nearer to one half."""
    by_prevalence = []
    for prevalence in (0.3, 0.003):
        shares = [fit_share(BINARY, *draw_members(BINARY, 600, s, prevalence)) for s in range(10)]
        by_prevalence.append(np.mean(shares) - EQUAL)
    assert by_prevalence[0] > 2 * by_prevalence[1] > 0


def test_members_that_are_alike_share_equally():
    y_true, right, _ = draw_members(REGRESSION, 20_000, seed=2)
    rng = np.random.default_rng(3)
    members = [right + rng.normal(size=len(right)) for _ in range(2)]
    assert fit_share(REGRESSION, y_true, *members) == pytest.approx(EQUAL, abs=0.05)
    assert fit_share(REGRESSION, y_true, right, right) == pytest.approx(EQUAL, abs=1e-3)


def test_a_member_that_is_sure_and_wrong_does_not_decide():
    y_true = np.array([1.0, *([0.0] * 30)])
    surely_wrong = np.zeros(31)
    share = fit_share(BINARY, y_true, surely_wrong, np.full(31, 0.03))
    assert 0 < share <= EQUAL
    assert np.isfinite(share)


def test_only_labelled_rows_that_are_named_are_read():
    n = 300
    split = np.repeat([TRAIN, VALID, TEST], n // 3)
    y_true, right, wrong = draw_members(REGRESSION, n, seed=4)
    labelled = np.arange(n) % 2 == 0

    def fit(labels: np.ndarray) -> float:
        cohort = Cohort(
            [str(i) for i in range(n)], split, {}, {}, {"stay": labels}, {"stay": labelled}
        )
        clusters = {"phenotype": np.ones((n, 2)) / 2}
        tasks = [REGRESSION, TaskSpec("phenotype", "clustering", classes=2)]
        members = {"stay": right} | clusters, {"stay": wrong}
        shares = fit_network_shares(cohort, tasks, *members, cohort.rows(VALID))
        assert shares["phenotype"] == 1  # trees find no clusters
        return shares["stay"]

    kept = fit(y_true)
    read = (split == VALID) & labelled
    assert fit(np.where(read, y_true, 1e6)) == kept
    assert fit(np.where(read, -y_true, y_true)) != kept


def test_a_task_without_labels_is_weighed_as_the_others_bear_out():
    n = 2000
    tasks = [TaskSpec(name, "regression") for name in ("a", "b", "unlabelled")]
    split = np.full(n, VALID)
    labels = {}
    network = {}
    for seed, task in enumerate(tasks):
        labels[task.name], network[task.name], wrong = draw_members(REGRESSION, n, seed)
    labelled = {task.name: np.full(n, task.name != "unlabelled") for task in tasks}
    cohort = Cohort([str(i) for i in range(n)], split, {}, {}, labels, labelled)
    trees = dict.fromkeys(labels, wrong)
    shares = fit_network_shares(cohort, tasks, network, trees, np.arange(n))
    assert shares["unlabelled"] > 0.8
    alone = fit_network_shares(cohort, tasks[2:], network, trees, np.arange(n))
    assert alone["unlabelled"] == EQUAL


def test_a_task_without_trees_is_the_network_s():
    network = {"stay": np.array([1.0, 2.0]), "phenotype": np.array([[0.2, 0.8], [0.7, 0.3]])}
    mixed = mix_predictions(network, {"stay": np.array([3.0, 6.0])}, {"stay": 0.5, "phenotype": 1})
    np.testing.assert_allclose(mixed["stay"], [2.0, 4.0])
    np.testing.assert_array_equal(mixed["phenotype"], network["phenotype"])
