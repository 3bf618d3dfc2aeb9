"""Whether a table's values are distributed as in the last snapshot.

Distances are compared with the contract's bound and what chance adds to it. A message holds counts
and shares, no values, and hides groups under ten.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from m3h_pipeline.contracts.model import Contract
from m3h_pipeline.wording import MIN_GROUP_SIZE

# The 1% critical value of the Kolmogorov-Smirnov statistic, times sqrt(1/n + 1/m).
_CHANCE = 1.63


@dataclass(frozen=True)
class Limits:
    """``distance``: how far a distribution may move, beyond chance; ``min_count``: of how many it
    must be known.
    """

    distance: float
    min_count: int

    def is_exceeded(self, distance: float, n: int, m: int) -> bool:
        """Whether two distributions, of n and of m, are further apart than allowed."""
        return distance > self.distance + _CHANCE * math.sqrt(1 / n + 1 / m)


def find_shifts(
    contract: Contract, before: Path, after: Path, covered: Collection[str] = ()
) -> tuple[int, list[str]]:
    """How many distributions were compared, and in words those that shifted: of each group
    (signal, task, kind) its share of the stays and its values, or of each column its values.

    ``covered``: groups that are in a table only while enough stays have them. That one has vanished
    is judged as any other change of its share: one near the bound comes and goes.
    """
    kwargs = contract.bounds["distribution_shift"].kwargs
    limits = Limits(kwargs["max_distance"], kwargs["min_count"])
    tables = (pl.scan_parquet(before), pl.scan_parquet(after))
    if "by" in kwargs:
        return _compare_groups(tables, contract, kwargs, limits, covered)
    return _compare_columns(tables, contract, limits)


def _compare_groups(
    tables: tuple[pl.LazyFrame, pl.LazyFrame],
    contract: Contract,
    kwargs: Mapping[str, Any],
    limits: Limits,
    covered: Collection[str],
) -> tuple[int, list[str]]:
    by = kwargs["by"]
    of = kwargs["of"]
    totals = [
        table.select(pl.col(of).n_unique()).collect(engine="streaming").item() for table in tables
    ]
    if min(totals) < limits.min_count:
        return 0, []
    counts = [_count_by_group(table, by, of) for table in tables]
    values: list[dict[str, pl.Series]] = [{}, {}]
    if "value" in kwargs:
        values = [_read_values(table, contract, by, kwargs["value"]) for table in tables]
    problems = []
    known_groups = sorted(name for name, n in counts[0].items() if n >= limits.min_count)
    for name in known_groups:
        old = counts[0][name]
        new = counts[1].get(name, 0)
        expected = old / totals[0] * totals[1]
        distance = abs(old / totals[0] - new / totals[1])
        if new == 0 and expected >= MIN_GROUP_SIZE and name not in covered:
            problems.append(f"{name} has vanished ({_format_share(old, totals[0])} had it)")
        elif limits.is_exceeded(distance, *totals):
            problems.append(
                f"{name}: {_format_share(new, totals[1])} have it, "
                f"{_format_share(old, totals[0])} had it"
            )
        elif new >= limits.min_count and name in values[0] and name in values[1]:
            problems += _compare_numbers(name, values[0][name], values[1][name], limits, old, new)
    return len(known_groups), problems


def _count_by_group(table: pl.LazyFrame, by: str, of: str) -> dict[str, int]:
    """Group -> how many different ``of`` it has."""
    counts = table.select(by, of).unique().group_by(by).len().collect(engine="streaming")
    return dict(counts.drop_nulls().iter_rows())


def _read_values(
    table: pl.LazyFrame, contract: Contract, by: str, value: str
) -> dict[str, pl.Series]:
    """Group -> its values."""
    rows = _take_every_kth(table, contract).select(by, value).drop_nulls().collect()
    return {key[0]: part[value] for key, part in rows.partition_by(by, as_dict=True).items()}


def _take_every_kth(table: pl.LazyFrame, contract: Contract) -> pl.LazyFrame:
    total = table.select(pl.len()).collect().item()
    return table.gather_every(max(1, -(-total // contract.verified_rows)))


def _compare_columns(
    tables: tuple[pl.LazyFrame, pl.LazyFrame], contract: Contract, limits: Limits
) -> tuple[int, list[str]]:
    """Of the samples: every declared column."""
    old, new = (_take_every_kth(table, contract).collect() for table in tables)
    if min(len(old), len(new)) < limits.min_count:
        return 0, []
    required = contract.columns.keys() - contract.optional
    shared = [name for name in old.columns if name in new.columns and name not in required]
    problems = []
    for name in shared:
        problems += _compare_column(name, old[name], new[name], limits)
    return len(shared), problems


def _compare_column(name: str, old: pl.Series, new: pl.Series, limits: Limits) -> list[str]:
    n = len(old)
    m = len(new)
    distance = abs(old.null_count() / n - new.null_count() / m)
    if limits.is_exceeded(distance, n, m):
        return [
            f"{name} is missing for {_format_share(new.null_count(), m)}, it was for "
            f"{_format_share(old.null_count(), n)}"
        ]
    before = old.drop_nulls()
    after = new.drop_nulls()
    if min(len(before), len(after)) < limits.min_count:
        return []
    if before.dtype.is_numeric() and after.dtype.is_numeric():
        return _compare_numbers(name, before, after, limits, len(before), len(after))
    if before.dtype == after.dtype == pl.String:
        return _compare_categories(name, before, after, limits)
    return []


def _compare_numbers(
    name: str, old: pl.Series, new: pl.Series, limits: Limits, n: int, m: int
) -> list[str]:
    """Numbers, by Kolmogorov-Smirnov; n and m count stays, since the values of one stay are
    alike.
    """
    from scipy.stats import ks_2samp

    distance = float(ks_2samp(old.to_numpy(), new.to_numpy(), method="asymp").statistic)
    if not limits.is_exceeded(distance, n, m):
        return []
    median = old.median()
    old_percent = round(100 * int((old <= median).sum()) / len(old))
    new_percent = round(100 * int((new <= median).sum()) / len(new))
    return [
        f"{name}: {new_percent}% of the values lie at or below the earlier median, {old_percent}% "
        f"did (distance {distance:.2f}, allowed {limits.distance:g} beyond chance)"
    ]


def _compare_categories(name: str, old: pl.Series, new: pl.Series, limits: Limits) -> list[str]:
    """Categories, by total variation: the share of rows that would have to change place."""
    old_shares = _share_by_category(old)
    new_shares = _share_by_category(new)
    moves: Sequence[float] = [
        new_shares.get(key, 0.0) - old_shares.get(key, 0.0) for key in old_shares | new_shares
    ]
    distance = sum(map(abs, moves)) / 2
    if not limits.is_exceeded(distance, len(old), len(new)):
        return []
    return [
        f"{name}: {distance:.0%} of the rows would have to change their category to be as before "
        f"(allowed {limits.distance:.0%} beyond chance)"
    ]


def _share_by_category(values: pl.Series) -> dict[str, float]:
    return dict(values.value_counts(normalize=True).iter_rows())


def _format_share(part: int, whole: int) -> str:
    """A share with its small ends hidden.

    >>> _format_share(50, 100), _format_share(3, 100), _format_share(98, 100)
    ('50%', 'fewer than 10', 'all but fewer than 10')
    >>> _format_share(100, 100)
    '100%'
    """
    if 0 < part < MIN_GROUP_SIZE:
        return f"fewer than {MIN_GROUP_SIZE}"
    if 0 < whole - part < MIN_GROUP_SIZE:
        return f"all but fewer than {MIN_GROUP_SIZE}"
    return f"{part / whole:.0%}"
