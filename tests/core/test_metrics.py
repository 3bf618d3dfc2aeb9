"""Scores: equal to scikit-learn, with intervals over subjects, paired between models."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from synthetic import SUPERVISED, TASKS, make_cohort, with_labelled

from m3h_core import compare_predictions, evaluate_predictions, with_folds
from m3h_core.data.cohort import TEST
from m3h_core.data.silhouette import input_space
from m3h_core.metrics import (
    Resamples,
    calibration_error,
    primary_metric,
)
from m3h_core.weighted_metrics import stratified_auroc, weighted_auroc, weighted_r2


@pytest.fixture(scope="module")
def cohort():
    return make_cohort()


@pytest.fixture(scope="module")
def predictions(cohort):
    rng = np.random.default_rng(1)
    n = len(cohort)
    truth = {name: np.nan_to_num(values) for name, values in cohort.labels.items()}
    scores = np.eye(3)[truth["destination"].astype(int)] + rng.random((n, 3))
    return {
        "death": np.round(truth["death"] + rng.normal(size=n), 1),  # with ties
        "shock": rng.random(n),
        "stay": truth["stay"] + rng.normal(size=n),
        "destination": scores / scores.sum(1, keepdims=True),
        "phenotype": np.eye(3)[[int(g) for g in cohort.groups["cluster"]]],
    }


def test_values_are_those_of_scikit_learn(cohort, predictions):
    scores = evaluate_predictions(cohort, TASKS, predictions, n_bootstrap=100)
    rows = {
        t.name: np.flatnonzero(cohort.labelled[t.name] & (cohort.split == TEST)) for t in SUPERVISED
    }
    label = {name: cohort.labels[name][r] for name, r in rows.items()}
    value = {name: predictions[name][r] for name, r in rows.items()}
    assert scores["death"].value == pytest.approx(sk.roc_auc_score(label["death"], value["death"]))
    assert scores["stay"].value == pytest.approx(sk.r2_score(label["stay"], value["stay"]))
    expected = sk.roc_auc_score(label["destination"], value["destination"], multi_class="ovr")
    assert scores["destination"].value == pytest.approx(expected)
    space = input_space(cohort)[cohort.split == TEST]
    clusters = predictions["phenotype"][cohort.split == TEST].argmax(1)
    assert scores["phenotype"].value == pytest.approx(sk.silhouette_score(space, clusters))
    for name, r in rows.items():
        assert scores[name].n == len(r)
        assert scores[name].low < scores[name].value < scores[name].high


def test_further_metrics_are_those_of_scikit_learn(cohort, predictions):
    scores = evaluate_predictions(cohort, TASKS, predictions, n_bootstrap=1)
    rows = np.flatnonzero(cohort.labelled["shock"] & (cohort.split == TEST))
    label = cohort.labels["shock"][rows]
    value = predictions["shock"][rows]
    others = scores["shock"].others
    assert others["Brier score"] == pytest.approx(sk.brier_score_loss(label, value))
    share, probability = calibration_curve(label, value, n_bins=10, strategy="quantile")
    assert others["ECE"] == pytest.approx(
        np.abs(share - probability).mean(), abs=0.02
    )  # bins differ by a row
    assert set(others) == {"AUPRC", "positives", "ECE", "Brier score"}
    # A score that is no probability is ranked, and not judged as one.
    assert set(scores["death"].others) == {"AUPRC", "positives"}
    assert set(scores["destination"].others) == {"accuracy", "ECE"}
    logits = predictions | {"destination": np.log(predictions["destination"])}
    assert set(
        evaluate_predictions(cohort, TASKS, logits, n_bootstrap=1)["destination"].others
    ) == {"accuracy"}
    test = cohort.split == TEST
    clusters = predictions["phenotype"][test].argmax(1)
    others = scores["phenotype"].others
    sizes = np.bincount(clusters)
    assert others["Davies-Bouldin"] == pytest.approx(
        sk.davies_bouldin_score(input_space(cohort)[test], clusters)
    )
    assert others["clusters"] == 3
    assert (others["smallest share"], others["largest share"]) == (
        sizes.min() / test.sum(),
        sizes.max() / test.sum(),
    )
    assert all(type(value) is float for score in scores.values() for value in score.others.values())


def test_calibration_error_is_small_for_true_probabilities_and_the_gap_for_others():
    rng = np.random.default_rng(0)
    truth = rng.random(40_000)
    happened = rng.random(40_000) < truth
    assert calibration_error(happened, truth) < 0.01
    # Between p and p squared lies 1/6 on average.
    assert calibration_error(happened, truth**2) == pytest.approx(1 / 6, abs=0.01)
    # Equal probabilities are one bin, in whatever order the rows come.
    assert calibration_error(np.sort(happened), np.full(40_000, happened.mean())) == pytest.approx(
        0
    )


def test_weighted_metrics_are_those_of_repeated_rows():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60)
    score = rng.integers(0, 8, 60) / 8
    weights = rng.integers(0, 4, (25, 60)).astype(np.float32)
    target = rng.normal(size=60) + 1e3
    predicted = target + rng.normal(size=60)
    auroc = weighted_auroc(label, score, weights)
    r2 = weighted_r2(target, predicted, weights)
    for r in range(25):
        rows = np.repeat(np.arange(60), weights[r].astype(int))
        assert auroc[r] == pytest.approx(sk.roc_auc_score(label[rows], score[rows]))
        assert r2[r] == pytest.approx(sk.r2_score(target[rows], predicted[rows]))


def test_subjects_are_resampled_not_rows(cohort):
    draws = Resamples(cohort, TEST, 50, seed=0)
    rows = cohort.rows(TEST)
    weights = draws.weights(rows)
    subjects = np.asarray(cohort.subject_ids)[rows]
    for subject in np.unique(subjects):
        subject_weights = weights[:, subjects == subject]
        assert (subject_weights == subject_weights[:, :1]).all()
    np.testing.assert_array_equal(weights, Resamples(cohort, TEST, 50, seed=0).weights(rows))


def test_models_of_folds_that_know_nothing_are_at_one_half():
    """Each predicts the base rate of the other folds, which is low where its fold's is high: ranked
    together, even such models would be below.
    """
    rng = np.random.default_rng(0)
    pooled = []
    stratified = []
    for _ in range(300):
        positive = rng.random(120) < 0.2
        fold = rng.integers(0, 3, 120)
        score = np.array([positive[fold != one].mean() for one in range(3)])[fold]
        score = score + 1e-9 * rng.normal(size=120)  # no ties, nor knowledge
        weights = np.ones((1, 120))
        pooled.append(weighted_auroc(positive, score, weights)[0])
        stratified.append(stratified_auroc(positive, score, weights, fold)[0])
    assert np.mean(pooled) < 0.45
    assert np.mean(stratified) == pytest.approx(0.5, abs=0.015)


def test_auroc_of_folds_is_the_share_of_pairs_of_one_fold_that_are_in_order():
    rng = np.random.default_rng(1)
    positive = rng.integers(0, 2, 40)
    score = rng.integers(0, 8, 40) / 8
    fold = rng.integers(0, 3, 40)
    weights = rng.integers(0, 4, (20, 40)).astype(np.float32)
    result = stratified_auroc(positive, score, weights, fold)
    for r in range(20):
        won = 0.0
        pairs = 0.0
        for one in np.flatnonzero(positive):
            for other in np.flatnonzero((positive == 0) & (fold == fold[one])):
                n_pairs = weights[r, one] * weights[r, other]
                won += n_pairs * ((score[one] > score[other]) + (score[one] == score[other]) / 2)
                pairs += n_pairs
        assert result[r] == pytest.approx(won / pairs)
    expected = weighted_auroc(positive, score, weights)
    for single in (None, np.zeros(40), np.full(40, 2)):
        np.testing.assert_allclose(stratified_auroc(positive, score, weights, single), expected)


def test_a_fold_with_one_kind_of_label_is_left_out():
    positive = np.array([1, 0, 1, 1, 1])
    score = np.array([0.2, 0.9, 0.1, 0.1, 0.1])
    fold = np.array([0, 0, 1, 1, 1])
    weights = np.ones((1, 5))
    assert stratified_auroc(positive, score, weights, fold).tolist() == [0.0]
    alone = stratified_auroc(positive[2:], score[2:], weights[:, 2:], fold[2:])
    assert np.isnan(alone).all()


def test_a_cross_fitted_cohort_is_scored_on_every_row_and_its_clusters_on_one_fold(
    cohort, predictions
):
    folded = with_folds(cohort, 3)
    # Each fold's scores lie elsewhere: compared over folds they would say nothing.
    shifted = predictions | {"death": predictions["death"] + 100.0 * folded.fold}
    scores = evaluate_predictions(folded, TASKS, shifted, n_bootstrap=100)
    for task in SUPERVISED:
        assert scores[task.name].n == cohort.labelled[task.name].sum()
        assert scores[task.name].low < scores[task.name].value < scores[task.name].high
    rows = np.flatnonzero(cohort.labelled["death"])
    label = cohort.labels["death"][rows]
    by_fold = []
    n_pairs = []
    for fold in range(3):
        is_in_fold = folded.fold[rows] == fold
        of_fold = label[is_in_fold]
        by_fold.append(sk.roc_auc_score(of_fold, predictions["death"][rows][is_in_fold]))
        n_pairs.append((of_fold == 1).sum() * (of_fold == 0).sum())
    assert scores["death"].value == pytest.approx(np.average(by_fold, weights=n_pairs))
    expected = sk.r2_score(
        cohort.labels["stay"][cohort.labelled["stay"]],
        predictions["stay"][cohort.labelled["stay"]],
    )
    assert scores["stay"].value == pytest.approx(expected)
    clusters = scores["phenotype"]
    part = folded.for_fold(0)
    assert clusters.n == (folded.fold == 0).sum()
    assert clusters.value == primary_metric(part, TASKS[-1], predictions["phenotype"])
    assert set(clusters.others) >= {"Davies-Bouldin", "clusters"}


def test_intervals_cover_the_truth():
    """AUROC .76 by construction; 95% intervals of 100 cohorts of 400 rows."""
    from math import erf

    truth = 0.5 * (1 + erf(1 / 2))
    covered = 0
    rng = np.random.default_rng(0)
    for _ in range(100):
        label = rng.integers(0, 2, 400)
        score = rng.normal(size=400) + label
        weights = rng.multinomial(400, np.full(400, 1 / 400), size=200)
        low, high = np.quantile(weighted_auroc(label, score, weights), [0.025, 0.975])
        covered += low <= truth <= high
    assert covered >= 88


def test_differences_are_paired(cohort, predictions):
    same = compare_predictions(cohort, TASKS, predictions, predictions, n_bootstrap=50)
    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in same.values())
    scores = evaluate_predictions(cohort, SUPERVISED, predictions, n_bootstrap=200)
    worse = {
        "death": predictions["death"] + 0.01 * np.random.default_rng(2).normal(size=len(cohort))
    }
    difference = compare_predictions(cohort, TASKS, worse, predictions, n_bootstrap=200)
    assert set(difference) == {"death"}
    width = difference["death"].high - difference["death"].low
    assert width < 0.3 * (scores["death"].high - scores["death"].low)


def test_undefined_scores_are_nan_with_their_n(cohort, predictions):
    none = with_labelled(cohort, "death", cohort.split != TEST)
    score = evaluate_predictions(none, TASKS, predictions, n_bootstrap=20)["death"]
    assert score.n == 0
    assert np.isnan([score.value, score.low, score.high]).all()
    one_kind = replace(cohort, labels={**cohort.labels, "death": np.ones(len(cohort))})
    score = evaluate_predictions(one_kind, TASKS, predictions, n_bootstrap=20)["death"]
    assert score.n > 0
    assert np.isnan(score.value)
    unknown = replace(cohort, labels={}, labelled={})
    assert evaluate_predictions(unknown, SUPERVISED, predictions, n_bootstrap=20)["stay"].n == 0
    with pytest.raises(ValueError, match="3 rows"):
        evaluate_predictions(cohort, SUPERVISED, predictions | {"death": np.zeros(3)})
