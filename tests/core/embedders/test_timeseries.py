"""The statistics of time series, against a plain loop and against what HAIM got wrong."""

from __future__ import annotations

import numpy as np
import pytest
from modality_items import (
    feature,
    random_events,
)

from m3h_core.embedders import (
    EventSequences,
    LanguageEmbedder,
    TimeseriesEmbedder,
    VisionEmbedder,
    load_embedder,
)
from m3h_core.embedders import timeseries as timeseries_module
from m3h_core.embedders.timeseries import HAIM_STATISTICS, STATISTICS, statistics


def naive_statistics(hours: np.ndarray, value: np.ndarray) -> list[float]:
    from scipy.signal import find_peaks

    order = np.lexsort((value, hours))
    hours = hours[order]
    value = value[order]
    step = np.diff(value)
    several = len(value) > 1
    return [
        value.max(),
        value.min(),
        value.mean(),
        value.var() if several else np.nan,
        step.mean() if several else np.nan,
        np.abs(step).mean() if several else np.nan,
        np.abs(step).max() if several else np.nan,
        np.abs(step).sum(),
        value[-1] - value[0] if several else np.nan,
        len(find_peaks(value)[0]),
        np.polyfit(hours, value, 1)[0] if len(set(hours)) > 1 else np.nan,
        value[-1],
        np.log1p(len(value)),
    ]


def test_statistics_agree_with_a_plain_loop(rng):
    events = random_events(rng)
    codes = ["a", "b", "c", "never"]
    vectors_by_signal = statistics(events, codes)
    assert vectors_by_signal.shape == (40, 4, len(STATISTICS))
    assert len(HAIM_STATISTICS) == 11
    for i in range(events.n):
        for j, code in enumerate(codes):
            is_signal = (events.sample == i) & (events.code == code)
            if is_signal.any():
                np.testing.assert_allclose(
                    vectors_by_signal[i, j],
                    naive_statistics(events.hours[is_signal], events.value[is_signal]),
                    atol=1e-9,
                )
            else:
                assert np.isnan(vectors_by_signal[i, j]).all()


def test_statistics_have_none_of_haims_defects():
    events = EventSequences(
        [0, 0, 0, 1], ["hr"] * 4, [-3.0, -2.0, -1.0, -5.0], [80.0, 90.0, 100.0, 70.0], n=2
    )
    of = [
        dict(zip(STATISTICS, row, strict=True)) for row in statistics(events, ["hr"])[:, 0].tolist()
    ]
    assert of[0]["min"] == 80, "a row of zeros was appended"
    assert of[0]["trend per hour"] == pytest.approx(10)
    assert of[1]["min"] == of[1]["max"] == of[1]["last"] == 70
    assert np.isnan([of[1]["variance"], of[1]["mean difference"], of[1]["trend per hour"]]).all()
    assert of[1]["number of peaks"] == of[1]["sum of absolute differences"] == 0


def test_order_of_events_and_form_of_codes_do_not_matter(rng):
    events = random_events(rng)
    order = rng.permutation(len(events.sample))
    shuffled = EventSequences(
        events.sample[order], events.code[order], events.hours[order], events.value[order], events.n
    )
    names = ["c", "a", "b"]
    numbered = EventSequences(
        events.sample,
        [names.index(c) for c in events.code],
        events.hours,
        events.value,
        events.n,
        codes=names,
    )
    embedder = TimeseriesEmbedder().fit(events)
    expected = embedder.transform(events)[0].tobytes()
    assert embedder.transform(shuffled)[0].tobytes() == expected
    assert embedder.transform(numbered)[0].tobytes() == expected
    assert TimeseriesEmbedder().fit(numbered).codes == ["a", "b", "c"]


def test_timeseries_marks_what_was_not_observed(rng):
    events = random_events(rng, size=60)
    embedder = TimeseriesEmbedder(codes=["a", "b", "never"]).fit(events.take(np.arange(30)))
    assert embedder.codes == ["a", "b"]
    some = EventSequences(
        [0, 2, 3, 3], ["a", "c", "never", "a"], [-1.0] * 4, [2.0, 1.0, 5.0, np.nan], n=4
    )
    vectors, present = embedder.transform(some)
    assert present.tolist() == [True, False, False, False]
    assert feature(embedder, vectors, "b: missing") == [1, 0, 0, 0]
    assert not vectors[1:].any()
    assert np.isfinite(vectors).all()
    assert vectors.shape == (4, embedder.width)


def test_timeseries_without_events(tmp_path):
    none = EventSequences([], np.array([], dtype=object), [], [], n=3)
    embedder = TimeseriesEmbedder().fit(none)
    embedder.save(tmp_path)
    vectors, present = load_embedder(tmp_path).transform(
        EventSequences([0], ["a"], [-1.0], [1.0], n=1)
    )
    assert vectors.tolist() == [[0.0]]
    assert not present.any()


def test_timeseries_blocks_make_no_difference(rng, monkeypatch):
    events = random_events(rng)
    whole = TimeseriesEmbedder().fit(events).transform(events)[0].tobytes()
    monkeypatch.setattr(timeseries_module, "_BLOCK", 7)
    steps = []
    vectors, _ = (
        TimeseriesEmbedder()
        .fit(events)
        .transform(events, lambda done, total: steps.append((done, total)))
    )
    assert vectors.tobytes() == whole
    assert steps[-1] == (40, 40)


def test_take_numbers_samples_anew(rng):
    events = random_events(rng)
    some = events.take(np.array([5, 2]))
    assert some.n == 2
    assert sorted(some.value[some.sample == 0]) == sorted(events.value[events.sample == 5])
    with pytest.raises(ValueError, match="distinct"):
        events.take(np.array([1, 1]))


def test_the_future_is_refused():
    with pytest.raises(ValueError, match="leak"):
        EventSequences([0], ["a"], [0.5], [1.0], n=1)
    with pytest.raises(ValueError, match="leak"):
        LanguageEmbedder().fit([[(1.0, "tomorrow")]])
    with pytest.raises(ValueError, match="leak"):
        VisionEmbedder().fit([[(float("nan"), "PA", b"")]])
    with pytest.raises(ValueError, match=r"0\.\.0"):
        EventSequences([1], ["a"], [-0.5], [1.0], n=1)
