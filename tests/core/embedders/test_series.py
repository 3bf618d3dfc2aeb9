"""Series in equal steps: an oracle that reads event by event, and what may not be kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3h_core.embedders import EventSequences, SeriesEmbedder, load_embedder

STEPS = 4
HOURS = 8.0
event = st.tuples(
    st.integers(0, 4),
    st.sampled_from(["hr", "k", "na"]),
    st.floats(-30, 0),
    st.floats(-50, 50) | st.just(float("nan")),
)


def _events(rows, n=5):
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    sample, code, hours, value = map(list, columns)
    return EventSequences(sample, code, hours, value, n=n)


def _read_one_by_one(rows, sample, code, scale):
    """Value, observed, recency of each step [L, 3]."""
    low, high, mean, spread = scale
    own = [
        (hours, (min(max(value, low), high) - mean) / spread)
        for at, of_code, hours, value in rows
        if at == sample and of_code == code and np.isfinite(value)
    ]
    steps = []
    length = HOURS / STEPS
    before = sorted(pair for pair in own if pair[0] < -HOURS)
    carried = before[-1][1] if before else 0.0
    for step in range(STEPS):
        start = -HOURS + step * length
        is_last = step == STEPS - 1
        here = [p for p in own if start <= p[0] and (p[0] < start + length or is_last)]
        if here:
            carried = np.mean([value for _, value in here])
        until = [hours for hours, _ in own if hours < start + length or is_last]
        recency = np.exp(-(start + length - max(until)) / 6) if until else 0.0
        steps.append((carried, float(bool(here)), recency))
    return np.array(steps)


@settings(max_examples=150, deadline=None)
@given(st.lists(event, max_size=30))
def test_every_step_says_what_its_events_say(rows):
    events = _events(rows)
    embedder = SeriesEmbedder(steps=STEPS, hours=HOURS).fit(events)
    vectors, present = embedder.transform(events)
    steps = vectors.reshape(5, STEPS, 3, -1)
    for sample in range(5):
        codes = {c for s, c, _, v in rows if s == sample and np.isfinite(v)}
        assert present[sample] == bool(codes)
        for at, code in enumerate(embedder.codes):
            expected = _read_one_by_one(rows, sample, code, embedder._scales[at])
            np.testing.assert_allclose(steps[sample, :, :, at], expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_events_and_other_samples_change_nothing(rng):
    rows = [
        (int(rng.integers(5)), "hr", float(-rng.uniform(0, 8)), float(rng.normal()))
        for _ in range(40)
    ]
    embedder = SeriesEmbedder(steps=STEPS, hours=HOURS).fit(_events(rows))
    vectors, _ = embedder.transform(_events(rows))
    np.testing.assert_allclose(embedder.transform(_events(rows[::-1]))[0], vectors, rtol=1e-5)
    own = embedder.transform(_events(rows).take(np.array([3])))[0]
    np.testing.assert_array_equal(own[0], vectors[3])


def test_most_signals_are_those_of_most_samples_and_the_rest_are_counted():
    rows = [
        (i, code, -1.0, float(i)) for code, n in (("a", 2), ("b", 5), ("c", 4)) for i in range(n)
    ]
    embedder = SeriesEmbedder(max_signals=2).fit(_events(rows))
    assert embedder.codes == ["b", "c"]
    assert embedder.report == {"signals": 2, "signals left out": 1, "steps": 24}


def test_signals_of_few_patients_are_not_kept():
    rows = [(i, "b", -1.0, 1.23456 * i) for i in range(5)] + [(0, "rare", -1.0, 7.77777)]
    embedder = SeriesEmbedder(min_rows=5).fit(_events(rows))
    assert embedder.codes == ["b"]
    low, high = embedder._scales[0, :2]
    assert low in (0.0, 0.02) or round(low, 2) == low
    assert round(high, 2) == high


def test_saved_it_gives_the_same_vectors_and_without_signals_nobody_is_present(tmp_path):
    rows = [(i, "hr", -float(i), 60.0 + i) for i in range(5)]
    embedder = SeriesEmbedder(steps=STEPS, hours=HOURS).fit(_events(rows))
    embedder.save(tmp_path)
    loaded = load_embedder(tmp_path)
    np.testing.assert_array_equal(
        loaded.transform(_events(rows))[0], embedder.transform(_events(rows))[0]
    )
    nothing = SeriesEmbedder(steps=STEPS).fit(_events([]))
    vectors, present = nothing.transform(_events([]))
    assert vectors.shape == (5, 3 * STEPS)
    assert not present.any()


@pytest.mark.parametrize("options", [{"steps": 0}, {"hours": 0.0}, {"max_signals": 0}])
def test_sizes_must_be_positive(options):
    with pytest.raises(ValueError, match="must be positive"):
        SeriesEmbedder(**options)
