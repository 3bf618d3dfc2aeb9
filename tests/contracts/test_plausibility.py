"""What a data steward would see: planted mistakes are found in whatever distribution, and long
tails are none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3h_pipeline.contracts.plausibility.clusters import find_mixed_units
from m3h_pipeline.contracts.plausibility.findings import Finding
from m3h_pipeline.contracts.plausibility.histogram import build_histograms
from m3h_pipeline.contracts.plausibility.values import find_outliers, find_sentinels

Values = np.ndarray


def table_of(values: Values, code: str, per_stay: int = 4) -> pl.LazyFrame:
    stays = np.arange(len(values)) // per_stay
    return (
        pl.DataFrame({"stay_id": stays, "code": code, "value": values})
        .cast({"stay_id": pl.String})
        .lazy()
    )


def units(values: Values, code: str, per_stay: int = 4) -> list[Finding]:
    rows = table_of(values, code, per_stay)
    return find_mixed_units(build_histograms(rows), rows, "events")


def find(rule: Callable[..., list[Finding]], values: Values, code: str = "lab") -> list[Finding]:
    (histogram,) = build_histograms(table_of(values, code))
    return rule(histogram, "events")


# Two units ----------------------------------------------------------------------------------------

# code, how its values are drawn, and how they read in another unit
SIGNALS: dict[str, tuple[Callable[[Any, int], Values], Callable[[Values], Values]]] = {
    "glucose": (
        lambda draw, n: draw.lognormal(4.85, 0.3, n).round(),
        lambda v: (v / 18.016).round(1),
    ),
    "creatinine": (
        lambda draw, n: draw.lognormal(0, 0.55, n).round(1) + 0.1,
        lambda v: (v * 88.4).round(),
    ),
    "temperature": (
        lambda draw, n: draw.normal(36.9, 0.7, n).round(1),
        lambda v: (v * 1.8 + 32).round(1),
    ),
    "sodium": (lambda draw, n: draw.normal(140, 4, n).round(), lambda v: v * 10),
    "calcium": (lambda draw, n: draw.normal(8.8, 0.7, n).round(1), lambda v: (v / 4.0078).round(2)),
    "own_lab": (lambda draw, n: draw.lognormal(2, 0.5, n), lambda v: v / 1000),
}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("code", SIGNALS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), whole_stays=st.booleans())
def test_two_units_under_one_code_are_found(
    code: str, share: float, seed: int, whole_stays: bool
) -> None:
    draw = np.random.default_rng(seed)
    make, convert = SIGNALS[code]
    # The values of a stay count as one, so a hundredth of the stays must be some tens.
    n = 12_000 if whole_stays else 4000
    values = make(draw, n)
    stays = draw.choice(n // 4, int(n // 4 * share), replace=False)
    wrong = (
        np.isin(np.arange(n) // 4, stays) if whole_stays else np.arange(n) % round(1 / share) == 0
    )
    values[wrong] = convert(values[wrong])
    (finding,) = units(values, code)
    assert finding.subject == code
    assert 0.6 * share <= finding.share <= 1.2 * share + 0.01
    if share > 0.01:
        assert finding.stops


def test_fewer_than_one_in_a_hundred_warn() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(140, 4, 20_000).round()
    values[::200] *= 10
    (finding,) = units(values, "sodium")
    assert not finding.stops
    assert finding.rows == 100


def test_a_code_that_names_its_substance_is_told_so() -> None:
    draw = np.random.default_rng(0)
    values = draw.lognormal(4.85, 0.3, 4000).round()
    values[::20] /= 18.016
    (finding,) = units(values, "glucose")
    assert "as between mmol/L and mg/dL of glucose: 200 of 4,000 values (5.00%)" in finding.words


UNMIXED: dict[str, Callable[[Any, int], Values]] = {
    # Half of the spread between stays, half within.
    "lognormal, narrow": lambda draw, n: (
        draw.lognormal(0, 0.2, n // 4).repeat(4) * draw.lognormal(0, 0.2, n)
    ),
    "lognormal, as of bilirubin": lambda draw, n: (
        draw.lognormal(0, 1.0, n // 4).repeat(4) * draw.lognormal(0, 0.5, n)
    ),
    "lognormal, as of liver enzymes": lambda draw, n: (
        draw.lognormal(3, 1.6, n // 4).repeat(4).round() + 1
    ),
    "power law": lambda draw, n: (
        np.exp(draw.exponential(1.0, n // 4)).repeat(4) * draw.lognormal(0, 0.2, n)
    ),
    "two-sided power law": lambda draw, n: (
        np.exp(draw.laplace(0, 0.7, n // 4)).repeat(4) * draw.lognormal(0, 0.2, n)
    ),
    "Student's t of logarithms": lambda draw, n: np.exp(draw.standard_t(3, n // 4) / 2).repeat(4),
    "exponential, as of urine": lambda draw, n: (draw.exponential(80, n) / 5).round() * 5 + 5,
    "near the limit of detection": lambda draw, n: draw.lognormal(-1, 0.8, n).round(1) + 0.1,
    "uniform": lambda draw, n: draw.uniform(1, 300, n),
    "doses": lambda draw, n: draw.choice([1, 2, 2.5, 5, 7.5, 10, 15, 20, 25, 40, 50, 80, 100], n),
    "a score": lambda draw, n: draw.choice(
        [3.0, 6, 7, 8, 9, 10, 11, 14, 15], n, p=[0.3, *[0.05] * 7, 0.35]
    ),
    "a fraction of oxygen": lambda draw, n: draw.choice([0.21, 0.3, 0.4, 0.5, 0.6, 1.0], n),
    "around zero": lambda draw, n: draw.normal(0, 6, n).round(1),
}


@pytest.mark.parametrize("kind", UNMIXED)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.sampled_from([400, 4000, 12_000]))
def test_a_long_tail_is_no_second_unit(kind: str, seed: int, n: int) -> None:
    values = UNMIXED[kind](np.random.default_rng(seed), n)
    assert units(values, "lab") == []


def test_one_stay_with_many_values_is_no_second_unit() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(140, 4, 4000).round()
    values[:200] *= 10
    assert units(values, "sodium", per_stay=200) == []


# Single values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-999.0, 999.0, 9999.0, -1.0, -9.0])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.sampled_from([0.1, 0.4]))
def test_a_number_that_stands_for_nothing_is_found(value: float, seed: int, sigma: float) -> None:
    values = np.random.default_rng(seed).lognormal(3, sigma, 2000)
    values[::100] = value
    (finding,) = find(find_sentinels, values)
    assert finding.rows == 20
    assert f"{value:.15g} stands for 20 of 2,000 values" in finding.words
    assert not finding.stops


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_number_among_others_like_it_is_a_value(seed: int) -> None:
    draw = np.random.default_rng(seed)
    # Oxygen saturation has many a 99, a base excess many a -1, a glucose meter ends at 999 among
    # others.
    assert find(find_sentinels, draw.normal(97, 2, 2000).round().clip(max=100)) == []
    assert find(find_sentinels, draw.normal(0, 4, 2000).round()) == []
    assert find(find_sentinels, draw.lognormal(5.5, 0.8, 2000).round().clip(max=999)) == []


def test_fewer_than_ten_are_not_named() -> None:
    values = np.random.default_rng(0).lognormal(3, 0.3, 2000)
    values[:9] = -999
    assert find(find_sentinels, values) == []


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_values_far_beyond_all_others_are_counted(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.normal(80, 12, 5000).round()
    values[:30] = draw.uniform(900, 2000, 30)
    values[30:50] = 0
    (finding,) = find(find_outliers, values)
    assert finding.rows == 50
    assert "50 of 5,000 values (1.00%) lie below" in finding.words


# Of these a value may lie beyond all bounds by chance: of power laws in 7 of 3,000 draws.
HEAVIEST = ("Student's t of logarithms", "power law")


@pytest.mark.parametrize("kind", [kind for kind in UNMIXED if kind not in HEAVIEST])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_long_tail_is_no_outlier(kind: str, seed: int) -> None:
    assert find(find_outliers, UNMIXED[kind](np.random.default_rng(seed), 4000)) == []


def test_a_power_law_hardly_ever_has_outliers() -> None:
    draws = [UNMIXED["power law"](np.random.default_rng(seed), 4000) for seed in range(100)]
    assert sum(bool(find(find_outliers, values)) for values in draws) <= 2
