"""The statistics of time series, against a plain loop and against what HAIM got wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from m3h_core.embedders import events as events_module
from m3h_core.embedders.events import count_samples
from m3h_core.embedders.series_statistics import (
    HAIM_STATISTICS,
    STATISTICS,
    count_columns,
    statistic_names,
    statistics,
)

# What the code before windows wrote, and the vectors that it made.
SAVED_BEFORE = Path(__file__).parent / "saved_before_windows"


def naive_statistics(hours: np.ndarray, value: np.ndarray, windows=None) -> list[float]:
    from scipy.signal import find_peaks

    order = np.lexsort((value, hours))
    hours = hours[order]
    value = value[order]
    step = np.diff(value)
    several = len(value) > 1
    result = [
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
        naive_trend(hours, value),
        value[-1],
        np.log1p(len(value)),
    ]
    if windows is None:
        return result
    result += [
        value[0],
        -hours[0],
        -hours[-1],
        *np.quantile(value, [0.25, 0.5, 0.75]),
        np.average(value, weights=0.5 ** ((hours[-1] - hours) / 4)),
        value[-3:].mean(),
        value[-2] if several else np.nan,
        value.sum(),
    ]
    for window in windows:
        recent = value[hours > -window]
        result += [np.mean(recent), recent.min(), recent.max()] if len(recent) else [np.nan] * 3
        result += [np.log1p(len(recent))]
    result += [
        naive_trend(hours[hours > -window], value[hours > -window]) for window in windows[-1:]
    ]
    return result


def naive_trend(hours: np.ndarray, value: np.ndarray) -> float:
    if len(set(hours)) < 2:
        return np.nan
    elapsed = hours - hours.mean()
    return (elapsed * (value - value.mean())).sum() / (elapsed**2).sum()


def assert_agrees_with_a_plain_loop(events: EventSequences, codes: list[str], windows) -> None:
    of_signals = statistics(events, codes, windows)
    assert of_signals.shape == (events.n, len(codes), len(statistic_names(windows)))
    for i in range(events.n):
        for j, code in enumerate(codes):
            is_used = (events.sample == i) & (events.code == code) & np.isfinite(events.value)
            if is_used.any():
                expected = naive_statistics(events.hours[is_used], events.value[is_used], windows)
            else:
                expected = np.full(of_signals.shape[2], np.nan)
                expected[count_columns(windows)] = 0
            np.testing.assert_allclose(of_signals[i, j], expected, atol=1e-7, rtol=1e-9)


@st.composite
def drawn_events(draw) -> EventSequences:
    """Events of up to five samples: ties in time and value, edges of windows, unknown values."""
    n = draw(st.integers(1, 5))
    event = st.tuples(
        st.integers(0, n - 1),
        st.sampled_from("abz"),
        st.integers(0, 60).map(lambda quarters: -quarters / 4),
        st.one_of(st.integers(-3, 3), st.floats(-1e3, 1e3), st.just(float("nan"))),
    )
    rows = draw(st.lists(event, max_size=40))
    sample, code, hours, value = zip(*rows, strict=True) if rows else ([], [], [], [])
    return EventSequences(sample, np.array(code, dtype=object), hours, value, n)


@pytest.mark.parametrize("windows", [None, (), (3, 6, 12)])
def test_statistics_agree_with_a_plain_loop(rng, windows):
    assert len(HAIM_STATISTICS) == 11
    assert_agrees_with_a_plain_loop(random_events(rng), ["a", "b", "c", "never"], windows)


@given(drawn_events(), st.sampled_from([None, (), (1.5,), (3, 6, 12)]))
def test_statistics_of_any_events_agree_with_a_plain_loop(events, windows):
    assert_agrees_with_a_plain_loop(events, ["a", "b", "never"], windows)


@given(drawn_events(), st.randoms(use_true_random=False))
def test_neither_order_nor_company_changes_a_sample(events, random):
    whole = statistics(events, ["a", "b"])
    order = list(range(len(events.sample)))
    random.shuffle(order)
    shuffled = EventSequences(
        events.sample[order], events.code[order], events.hours[order], events.value[order], events.n
    )
    np.testing.assert_array_equal(statistics(shuffled, ["a", "b"]), whole)
    for i in range(events.n):
        alone = statistics(events.take(np.array([i])), ["a", "b"])[0]
        assert alone.tobytes() == whole[i].tobytes()


def test_a_window_holds_what_is_less_than_its_hours_old():
    events = EventSequences([0, 0, 0], ["k"] * 3, [-3.0, -2.9, -20.0], [5.0, 4.0, 3.0], n=2)
    of = dict(zip(statistic_names(), statistics(events, ["k", "na"])[0, 0], strict=True))
    assert of["mean of last 3 h"] == 4
    assert of["mean of last 6 h"] == 4.5
    assert of["log count of last 12 h"] == np.log1p(2)
    assert of["hours since first"] == 20
    nobody = dict(zip(statistic_names(), statistics(events, ["k", "na"])[1, 0], strict=True))
    assert nobody["log count of last 3 h"] == 0
    assert np.isnan(nobody["mean of last 3 h"])


def test_statistics_have_none_of_haims_defects():
    events = EventSequences(
        [0, 0, 0, 1], ["hr"] * 4, [-3.0, -2.0, -1.0, -5.0], [80.0, 90.0, 100.0, 70.0], n=2
    )
    of = [
        dict(zip(STATISTICS, row, strict=True))
        for row in statistics(events, ["hr"], None)[:, 0].tolist()
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
    monkeypatch.setattr(events_module, "_BLOCK", 7)
    steps = []
    vectors, _ = (
        TimeseriesEmbedder()
        .fit(events)
        .transform(events, lambda done, total: steps.append((done, total)))
    )
    assert vectors.tobytes() == whole
    assert steps[-1] == (40, 40)


@pytest.mark.parametrize("windows", [None, (3, 6, 12)])
def test_a_sample_alone_gets_the_same_vector(rng, windows):
    events = random_events(rng)
    embedder = TimeseriesEmbedder(windows=windows).fit(events)
    vectors, _ = embedder.transform(events)
    for i in range(5):
        alone, _ = embedder.transform(events.take(np.array([i])))
        assert alone[0].tobytes() == vectors[i].tobytes()


def test_an_embedder_saved_before_windows_gives_the_same_vectors(rng, tmp_path):
    """Written by the code before windows, from these events; min_rows was 2."""
    events = random_events(rng)
    before = load_embedder(SAVED_BEFORE)
    expected = np.load(SAVED_BEFORE / "vectors.npy")
    np.testing.assert_allclose(before.transform(events)[0], expected, atol=1e-6)
    again = TimeseriesEmbedder(windows=None, min_rows=2).fit(events.take(np.arange(30)))
    assert again.feature_names == before.feature_names
    np.testing.assert_allclose(again.transform(events)[0], expected, atol=1e-6)
    before.save(tmp_path)
    assert load_embedder(tmp_path).feature_names == before.feature_names


def ward(n_codes: int, n: int = 60) -> EventSequences:
    """Code j is measured in n - j samples, but in two at least, once to three times each."""
    pairs = [(i, j) for j in range(n_codes) for i in range(max(2, n - j)) for _ in range(1 + i % 3)]
    sample, code = np.array(pairs).T
    rng = np.random.default_rng(0)
    names = np.array([f"code {j:03}" for j in range(n_codes)], dtype=object)
    size = len(sample)
    return EventSequences(sample, names[code], -24 * rng.random(size), rng.normal(size=size), n)


def test_signals_beyond_the_limit_are_told_briefly_and_then_not_at_all(tmp_path):
    events = ward(60)
    everything = TimeseriesEmbedder().fit(events)
    assert everything.report == {"signals": 60, "fitted on": 60}
    some = TimeseriesEmbedder(max_columns=400).fit(events)
    assert some.report == {
        "signals": 60,
        "fitted on": 60,
        "signals with all statistics": 6,
        "covering at least this share of samples": round(55 / 60, 3),
        "signals with last value and count only": 54,
        "signals left out": 0,
    }
    assert some.width <= 400
    assert {name for name in some.feature_names if name.startswith("code 050")} == {
        "code 050: last",
        "code 050: log count",
        "code 050: missing",
    }
    few = TimeseriesEmbedder(max_columns=100).fit(events)
    assert few.codes == [f"code {j:03}" for j in range(22)]
    assert few.report["signals with all statistics"] == 1
    assert few.report["signals left out"] == 38
    assert few.width <= 100
    names = some.feature_names
    of_all = everything.transform(events)[0][:, [everything.feature_names.index(n) for n in names]]
    vectors, _ = some.transform(events)
    np.testing.assert_array_equal(vectors, of_all)
    some.save(tmp_path)
    assert load_embedder(tmp_path).feature_names == names
    assert (
        load_embedder(tmp_path).transform(events)[0].tobytes()
        == some.transform(events)[0].tobytes()
    )


def test_signals_of_equal_coverage_rank_by_name():
    events = EventSequences([0, 1] * 3, list("ccbbaa"), [-1.0] * 6, [1.0, 2.0] * 3, n=2)
    assert TimeseriesEmbedder(max_columns=40).fit(events).codes == ["a", "b"]
    # One has all statistics (37 columns), the next is told briefly (3).
    assert TimeseriesEmbedder(list("cba"), max_columns=40).fit(events).codes == ["a", "b"]


@pytest.mark.parametrize("windows", [(0, 3), (6, 3), (3, 3), (float("inf"),), (float("nan"), 3)])
def test_windows_must_ascend(windows):
    with pytest.raises(ValueError, match="ascending"):
        TimeseriesEmbedder(windows=windows)


def test_a_limit_without_room_is_refused():
    with pytest.raises(ValueError, match="one signal takes 37"):
        TimeseriesEmbedder(max_columns=36)


def test_counts_of_a_few_patients_are_not_kept():
    """Three of thirty had a value in the last hours: with ten as the least, nothing says so."""
    hours = np.full(30, -20.0)
    hours[:3] = -1.0
    events = EventSequences(np.arange(30), ["k"] * 30, hours, np.arange(30.0), n=30)
    kept = TimeseriesEmbedder().fit(events).feature_names
    assert "k: log count of last 3 h" in kept
    embedder = TimeseriesEmbedder(min_rows=10).fit(events)
    assert not [name for name in embedder.feature_names if "last 3 h" in name]


def test_columns_that_say_the_same_are_left_out():
    """Each stay has one value of k, ten minutes ago: all say the same; those of na differ."""
    rng = np.random.default_rng(0)
    sample = np.r_[np.arange(200), np.repeat(np.arange(200), 8)]
    code = np.array(["k"] * 200 + ["na"] * 1600, dtype=object)
    hours = np.r_[np.full(200, -1 / 6), -24 * rng.random(1600)]
    events = EventSequences(sample, code, hours, rng.normal(size=1800), n=200)
    every = TimeseriesEmbedder(max_correlation=1.1).fit(events)
    some = TimeseriesEmbedder().fit(events)
    assert {"k: max", "k: min", "k: last"} <= set(every.feature_names)
    assert [name for name in some.feature_names if name.startswith("k: ")] == ["k: max"]
    assert {"na: max", "na: min", "na: last"} <= set(some.feature_names)
    places = [every.feature_names.index(name) for name in some.feature_names]
    vectors, _ = some.transform(events)
    np.testing.assert_array_equal(vectors, every.transform(events)[0][:, places])
    few = events.take(np.arange(20))
    assert "k: min" in TimeseriesEmbedder().fit(few).feature_names


def test_samples_are_counted_by_code(rng, monkeypatch):
    events = random_events(rng, size=60)
    expected = {c: len(set(events.sample[events.code == c])) for c in "abc"}
    assert dict(count_samples(events)) == expected
    monkeypatch.setattr(events_module, "_BLOCK", 7)
    assert dict(count_samples(events)) == expected


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


def test_a_signal_that_is_new_is_ignored_and_one_that_is_gone_is_missing(tmp_path):
    """Which signals there are changes from night to night; a saved embedder has its own."""
    codes = ["gone", "hr", "hr", "gone", "hr"]
    events = EventSequences([0, 0, 1, 1, 2], codes, [-3, -2, -1, -5, -4], [1, 2, 3, 4, 5.5], n=3)
    fitted = TimeseriesEmbedder().fit(events)
    fitted.save(tmp_path / "embedder")
    saved = load_embedder(tmp_path / "embedder")
    tonight = EventSequences([0, 0, 1], ["hr", "new", "new"], [-2, -2, -2], [2, 9, 9], n=2)
    without = EventSequences([0], ["hr"], [-2], [2], n=2)
    vectors, present = saved.transform(tonight)
    assert present.tolist() == [True, False]
    np.testing.assert_array_equal(vectors, saved.transform(without)[0])
    missing = fitted.feature_names.index("gone: missing")
    assert vectors[0, missing] == saved.transform(events)[0][2, missing]
    assert vectors[0, missing] != saved.transform(events)[0][0, missing]
