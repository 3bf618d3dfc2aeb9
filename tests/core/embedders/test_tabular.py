"""The tabular embedder on columns as hospitals have them."""

from __future__ import annotations

import numpy as np
import pytest
from modality_items import (
    columns,
    feature,
)

from m3h_core.embedders import (
    TabularEmbedder,
    load_embedder,
)


def test_tabular_quantiles_follow_order_and_share_ties(rng):
    age = np.r_[np.zeros(50), rng.lognormal(size=450)]
    embedder = TabularEmbedder().fit({"age": age})
    vectors, present = embedder.transform({"age": np.array([0.0, 0.0, 0.5, 1e9, -1e9])})
    quantile = feature(embedder, vectors, "age: quantile")
    assert quantile[0] == quantile[1] < quantile[2] < quantile[3]
    assert quantile[4] <= quantile[0]
    assert present.all()
    assert np.abs(vectors).max() < 10


def test_tabular_missing_is_information_and_unseen_categories_survive():
    items = columns(
        age=[30.0, 40.0, np.nan, 50.0, np.nan, 60.0],
        sex=["F", "M", None, "F", "M", ""],
        race=["a", "a", "a", "a", "b", "c"],
    )
    embedder = TabularEmbedder(min_rows=2).fit(items)
    new = {
        "age": np.array([np.nan, 45.0], dtype=float),
        "sex": np.array([None, "X"], dtype=object),
        "race": np.array([float("nan"), "z"], dtype=object),
    }
    vectors, present = embedder.transform(new)
    assert present.tolist() == [False, True]
    assert not vectors[0].any()
    assert feature(embedder, vectors, "race: (other)") == [0, 1]
    fitted, _ = embedder.transform(items)
    assert feature(embedder, fitted, "age: missing") == [0, 0, 1, 0, 1, 0]
    assert feature(embedder, fitted, "sex: (missing)") == [0, 0, 1, 0, 0, 1]
    assert feature(embedder, fitted, "race: a") == [1, 1, 1, 1, 0, 0]


def test_tabular_is_safe_on_poor_columns():
    items = {
        "constant": np.full(8, 3.0),
        "nothing": np.full(8, np.nan),
        "empty": np.full(8, None, dtype=object),
        "same": np.array(["x"] * 8, dtype=object),
        "flag": np.array([True, False] * 4),
        "number": np.array([1, None, 3, 4, 5, 6, 7, 8], dtype=object),
        "infinite": np.r_[np.inf, np.arange(7.0)],
    }
    embedder = TabularEmbedder().fit(items)
    vectors, present = embedder.transform(items)
    assert np.isfinite(vectors).all()
    assert present.all()
    assert {name.split(":")[0] for name in embedder.feature_names} == {"flag", "number", "infinite"}
    # Scoring may lack a column's values altogether.
    absent = items | {"number": np.full(8, None, dtype=object)}
    assert np.isfinite(embedder.transform(absent)[0]).all()


@pytest.mark.parametrize(
    "items", [{}, {"age": np.array([50.0])}, {"age": np.zeros(0)}], ids=["none", "one row", "empty"]
)
def test_tabular_fits_next_to_nothing(items, tmp_path):
    embedder = TabularEmbedder().fit(items)
    embedder.save(tmp_path)
    vectors, _ = load_embedder(tmp_path).transform(items)
    assert vectors.shape == (len(next(iter(items.values()), [])), embedder.width)


def test_tabular_errors_name_the_column_and_never_the_value():
    embedder = TabularEmbedder().fit({"age": np.arange(9.0)})
    with pytest.raises(ValueError, match="'age'") as caught:
        embedder.transform({"age": np.array(["Jane Doe"], dtype=object)})
    assert "Jane" not in str(caught.value)
    with pytest.raises(ValueError, match="missing: age"):
        embedder.transform({"sex": np.array(["F"])})
