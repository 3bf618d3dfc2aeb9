"""Sets of codes as vectors: what is learned of which samples, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3h_core.embedders import EventSequences, TabularEmbedder, load_embedder
from m3h_core.embedders.codes import CodesEmbedder

NAN = float("nan")


def records(rows: list[tuple[int, str, float, float]], n: int) -> EventSequences:
    """Codes of n samples, of (sample, code, hours, value)."""
    sample, code, hours, value = zip(*rows, strict=True) if rows else ((), (), (), ())
    return EventSequences(sample, code, hours, value, n=n)


def column(embedder: CodesEmbedder, vectors: np.ndarray, name: str) -> list[float]:
    return vectors[:, embedder.feature_names.index(name)].astype(float).round(4).tolist()


def test_a_rare_code_counts_for_those_above_it():
    rows = [(i, f"drug/insulin/kind {i}", -24.0 * i, NAN) for i in range(4)]
    rows += [(i, "service/medicine", 0.0, NAN) for i in range(3)]
    embedder = CodesEmbedder(min_rows=2).fit(records(rows, 6))
    # "drug" says what "drug/insulin" says, and each kind of insulin has one sample.
    assert embedder.nodes == ["drug/insulin", "service/medicine"]
    vectors, present = embedder.transform(records(rows, 6))
    assert column(embedder, vectors, "drug/insulin: recency") == [1, 0.5, 0.3333, 0.25, 0, 0]
    assert present.tolist() == [True] * 4 + [False] * 2
    new = records([(0, "drug/insulin/never seen", -24.0, NAN), (1, "other", 0.0, NAN)], 2)
    vectors, present = embedder.transform(new)
    assert column(embedder, vectors, "drug/insulin: recency") == [0.5, 0]
    assert present.all()


def test_counts_lie_between_nothing_and_what_few_exceed():
    rows = [(i, "drug/a", -1.0, NAN) for i in range(10) for _ in range(i)]
    embedder = CodesEmbedder(min_rows=2).fit(records(rows, 10))
    many = [(0, "drug/a", -1.0, NAN)] * 500
    vectors, _ = embedder.transform(records([*rows, *many], 10))
    counts = column(embedder, vectors, "drug/a: count")
    assert counts[0] == 1  # more than anyone had is as much as most
    assert counts[1:] == sorted(counts[1:])
    assert 0 < counts[1] < counts[-1] == 1


def test_the_last_value_of_a_code_is_kept():
    rows = [(i, "measured/weight", -5.0, 50.0 + i) for i in range(6)]
    rows += [(0, "measured/weight", -1.0, 90.0), (1, "measured/weight", -9.0, 10.0)]
    rows += [(2, "drug/a", -1.0, 3.0)]
    embedder = CodesEmbedder(min_rows=2).fit(records(rows, 7))
    assert embedder.valued == ["measured/weight"]
    vectors, _ = embedder.transform(records(rows, 7))
    weights = column(embedder, vectors, "measured/weight: value")
    assert weights[0] == max(weights)
    assert weights[1:6] == sorted(weights[1:6])
    assert weights[6] == 0  # missing, so the mean


def test_rare_codes_become_components():
    rng = np.random.default_rng(0)
    rows = [
        (i, f"drug/{group} {k}", -1.0, NAN)
        for i in range(400)
        for group in [i % 2]
        for k in rng.choice(40, 2)
    ]
    items = records(rows, 400)
    embedder = CodesEmbedder(min_rows=5, min_share=0.2, components=4).fit(items)
    assert embedder.nodes == ["drug"]
    assert embedder.report["components of rare codes"] == 4
    vectors, _ = embedder.transform(items)
    parts = vectors[:, [i for i, name in enumerate(embedder.feature_names) if "rare" in name]]
    # Which of two groups of drugs it is, one component says.
    is_group = np.arange(400) % 2
    assert max(abs(np.corrcoef(part, is_group)[0, 1]) for part in parts.T) > 0.8


def test_codes_of_few_samples_are_not_kept(tmp_path):
    rows = [(i, "drug/usual", -1.0, NAN) for i in range(20)]
    rows += [(i, "drug/secret name", -1.0, 123.456) for i in range(4)]
    embedder = CodesEmbedder(min_rows=5).fit(records(rows, 20))
    embedder.save(tmp_path)
    assert "secret" not in (tmp_path / "embedder.json").read_text()
    assert "drug/usual" in (tmp_path / "embedder.json").read_text()


def test_no_more_columns_than_allowed_and_the_common_ones_first():
    rows = [(i, f"drug/{k:03}", -1.0, NAN) for k in range(50) for i in range(100 - k)]
    embedder = CodesEmbedder(min_rows=2, max_nodes=10).fit(records(rows, 101))
    # All that have any drug have the first one.
    assert embedder.nodes == [f"drug/{k:03}" for k in range(10)]


@given(st.permutations(range(12)))
def test_the_order_of_records_changes_nothing(order):
    rows = [(i % 4, f"a/{i % 3}", -float(i % 2), float(i)) for i in range(12)]
    embedder = CodesEmbedder(min_rows=1).fit(records(rows, 4))
    shuffled = [rows[i] for i in order]
    again = CodesEmbedder(min_rows=1).fit(records(shuffled, 4))
    expected, _ = embedder.transform(records(rows, 4))
    vectors, _ = again.transform(records(shuffled, 4))
    assert vectors.tobytes() == expected.tobytes()


def test_a_record_after_the_prediction_is_refused():
    with pytest.raises(ValueError, match="leak"):
        records([(0, "drug/a", 0.5, NAN)], 1)


def test_nobody_has_any_code():
    embedder = CodesEmbedder(min_rows=2).fit(records([], 5))
    vectors, present = embedder.transform(records([(0, "drug/a", 0.0, 1.0)], 2))
    assert vectors.shape == (2, embedder.width)
    assert not vectors.any()
    assert present.tolist() == [True, False]


def test_codes_belong_to_the_tabular_modality(tmp_path):
    rows = [(i, f"drug/{'ab'[i % 2]}", -float(i), NAN) for i in range(20)]
    items = {"age": np.arange(30.0), "codes": records(rows, 30)}
    embedder = TabularEmbedder(min_rows=2).fit(items)
    without = TabularEmbedder(min_rows=2).fit({"age": items["age"]})
    vectors, present = embedder.transform(items)
    assert embedder.width == vectors.shape[1] == len(embedder.feature_names)
    assert embedder.width == without.width + 6
    assert vectors[:, : without.width].tobytes() == without.transform(items)[0].tobytes()
    assert present.all()
    embedder.save(tmp_path)
    loaded = load_embedder(tmp_path)
    assert loaded.transform(items)[0].tobytes() == vectors.tobytes()
    # A night on which nobody has a record of any code.
    alone, _ = loaded.transform({"age": items["age"]})
    assert alone[:, : without.width].tobytes() == vectors[:, : without.width].tobytes()
    assert not alone[:, without.width :].any()


def test_who_has_codes_alone_is_present():
    items = {"age": np.array([NAN, NAN, 50.0]), "codes": records([(1, "drug/a", 0.0, NAN)], 3)}
    _, present = TabularEmbedder(min_rows=1).fit(items).transform(items)
    assert present.tolist() == [False, True, True]
