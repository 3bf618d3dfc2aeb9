"""How members become one: values are stretched as far as labels bear it out, ranks stay."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TEST, TRAIN, VALID
from m3h_core.ensemble.mixture import FoldMixtures, Line, Mixture

DEATH = TaskSpec("death", "binary")
STAY = TaskSpec("stay", "regression", unit="days")
N = 900


def draw(seed: int = 0) -> tuple[Cohort, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A cohort in three folds, and two members whose values vary half as much as what they know."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=N)
    labels = {
        "death": (signal + rng.normal(size=N) > 1).astype(float),
        "stay": 10 + signal + rng.normal(size=N),
    }
    members = []
    for _ in range(2):
        noisy = signal + rng.normal(scale=0.2, size=N)
        members.append({"death": 1 / (1 + np.exp(1 - noisy)), "stay": 10 + noisy / 2})
    cohort = Cohort(
        [f"s{row}" for row in range(N)],
        np.resize([TRAIN, VALID, TEST], N),
        {},
        {},
        labels,
        {name: np.ones(N, dtype=bool) for name in labels},
        fold=np.arange(N) % 3,
    )
    return cohort, members[0], members[1]


def test_values_that_vary_too_little_are_stretched_and_probabilities_are_not():
    cohort, network, trees = draw()
    mixture = Mixture.fit(cohort, [DEATH, STAY], network, trees, np.arange(N))
    assert list(mixture.lines) == ["stay"]
    assert 1.7 < mixture.lines["stay"].slope < 2.1
    mixed = mixture.apply(network, trees)
    share = mixture.shares["stay"]
    plain = share * network["stay"] + (1 - share) * trees["stay"]
    y_true = np.asarray(cohort.labels["stay"])
    assert np.mean((mixed["stay"] - y_true) ** 2) < 0.9 * np.mean((plain - y_true) ** 2)
    np.testing.assert_array_equal(np.argsort(mixed["stay"]), np.argsort(plain))
    share = mixture.shares["death"]
    expected = share * network["death"] + (1 - share) * trees["death"]
    np.testing.assert_allclose(mixed["death"], expected)


def test_few_labels_hardly_stretch():
    """What a dozen noisy labels prefer is noise: over many draws the slope stays near 1."""
    slopes = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        prediction = rng.normal(size=12)
        slopes.append(Line.fit(prediction + rng.normal(scale=3, size=12), prediction).slope)
    assert np.ptp(slopes) < 0.1
    assert np.mean(slopes) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("n", [0, 9])
def test_without_labels_to_speak_of_predictions_stay(n):
    prediction = np.arange(n, dtype=float)
    line = Line.fit(prediction * 3, prediction)
    np.testing.assert_array_equal(line.apply(np.array([1.0, 5.0])), [1.0, 5.0])


def test_predictions_that_are_all_the_same_stay_so():
    line = Line.fit(np.arange(20.0), np.full(20, 4.0))
    assert np.isfinite(asdict(line)["slope"])
    assert np.ptp(line.apply(np.full(3, 4.0))) == 0


def test_a_fold_s_line_is_that_of_the_other_folds_labels():
    cohort, network, trees = draw()
    mixtures = FoldMixtures.fit(cohort, [DEATH, STAY], network, trees)
    mixed = mixtures.apply_unseen(network, trees, cohort.fold)
    for fold in range(3):
        others = np.flatnonzero(cohort.fold != fold)
        own = Mixture.fit(cohort, [DEATH, STAY], network, trees, others)
        assert mixtures.by_fold[fold] == own
        rows = cohort.fold == fold
        np.testing.assert_array_equal(mixed["stay"][rows], own.apply(network, trees)["stay"][rows])
    assert mixtures.by_fold[0] != mixtures.by_fold[1]


def test_it_travels_as_json():
    cohort, network, trees = draw()
    mixture = Mixture.fit(cohort, [DEATH, STAY], network, trees, np.arange(N))
    assert Mixture.from_dict(json.loads(json.dumps(mixture.to_dict()))) == mixture
