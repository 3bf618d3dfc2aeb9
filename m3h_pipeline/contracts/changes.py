"""What breaks a table as a whole: another shape, another size or other values than the last
snapshot's, or old data.

The bounds are the contract's; a snapshot is compared with the last one before it that passed. A
message says what was seen, what was expected and what to do; it holds counts and shares, no values,
and hides groups under ten.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from m3h_pipeline.contracts import CheckResult, Contract
from m3h_pipeline.wording import MIN_GROUP_SIZE, format_count

# The 1% critical value of the Kolmogorov-Smirnov statistic, times sqrt(1/n + 1/m).
_CHANCE = 1.63


@dataclass(frozen=True)
class Occasion:
    """When a table is judged, and beside what.

    ``previous``: label and Parquet file of the last good snapshot before, or None; ``is_live``:
    dates are real and each extraction is of its day, so that old data means a feed that stands
    still; ``accepted``: checks of which a person said that this snapshot's change is right;
    ``entries``: what a person accepted of the table in all snapshots.
    """

    snapshot: str
    previous: tuple[str, Path] | None = None
    is_live: bool = False
    accepted: frozenset[str] = frozenset()
    entries: tuple[str, ...] = ()


def judge(contract: Contract, valid: Path, occasion: Occasion) -> list[CheckResult]:
    """The checks of a table as a whole, of those that its contract asks for."""
    found = {"schema": _schema(contract, valid, occasion)}
    for name, check in (
        ("change_in_volume", _volume),
        ("distribution", _distribution),
        ("freshness", _freshness),
    ):
        if name in contract.checks:
            found[name] = check(contract, valid, occasion)
    return [_settled(contract, result, occasion) for result in found.values()]


def settle(result: CheckResult, occasion: Occasion) -> CheckResult:
    """A check that a person accepted as a whole for this snapshot passes, and says so."""
    if result.passed or result.name not in occasion.accepted:
        return result
    words = f"Accepted in m3h.toml. {result.description}"
    return CheckResult(result.name, True, result.severity, words, result.observed)


def _settled(contract: Contract, result: CheckResult, occasion: Occasion) -> CheckResult:
    """A breach that a person accepted passes, and says so; any other says how to accept it."""
    result = settle(result, occasion)
    if result.passed:
        return result
    entry = f"{occasion.snapshot} {contract.table} {result.name}"
    words = (
        f"{result.description} What to do: mend the extraction and run again; or, if this is right, add "
        f'"{entry}" to accepted under [validation] in m3h.toml and run again.'
    )
    return CheckResult(result.name, False, result.severity, words, result.observed)


def _passed(name: str, severity: str, words: str, note: str = "") -> CheckResult:
    return CheckResult(name, True, severity, words, {"note": note} if note else {})


def _no_earlier(name: str, severity: str) -> CheckResult:
    return _passed(
        name, severity, "There is no earlier snapshot to compare with.", "no earlier snapshot"
    )


def _schema(contract: Contract, valid: Path, occasion: Occasion) -> CheckResult:
    """Declared columns that the last snapshot had must be there, of the same type. New ones are
    welcome.
    """
    if occasion.previous is None:
        return _no_earlier("schema", "error")
    label, file = occasion.previous
    old = pl.read_parquet_schema(file)
    new = pl.read_parquet_schema(valid)
    problems = [f"the column {name} is gone" for name in old if name not in new]
    problems += [
        f"the column {name} is {kind(new[name])}, it was {kind(dtype)}"
        for name, dtype in old.items()
        if name in new and kind(new[name]) != kind(dtype)
    ]
    added = [name for name in new if name not in old]
    if problems:
        words = f"Against the snapshot of {label}: {'; '.join(problems)}."
        return CheckResult(
            "schema", False, "error", words, {"columns": len(new), "problems": len(problems)}
        )
    words = f"The columns are those of the contract and of the snapshot of {label}."
    if added:
        words += f" New: {', '.join(added)}."
    return CheckResult("schema", True, "error", words, {"columns": len(new)})


def kind(dtype: pl.DataType) -> str:
    """A type in a data steward's words.

    >>> kind(pl.Float32()), kind(pl.String()), kind(pl.Datetime("us"))
    ('a number', 'text', 'a time')
    """
    if dtype.is_numeric():
        return "a number"
    if dtype == pl.String:
        return "text"
    return "a time" if dtype.is_temporal() else "empty" if dtype == pl.Null else str(dtype)


def _volume(contract: Contract, valid: Path, occasion: Occasion) -> CheckResult:
    bound = contract.bounds["volume_change"]
    if occasion.previous is None:
        return _no_earlier("change_in_volume", bound.severity)
    label, file = occasion.previous
    old, new = (pl.scan_parquet(table).select(pl.len()).collect().item() for table in (file, valid))
    low = bound.kwargs["min_ratio"]
    high = bound.kwargs["max_ratio"]
    words = (
        f"There are {format_count(new)} rows; the snapshot of {label} had {format_count(old)}, the contract "
        f"allows {low:g} to "
    )
    words += f"{high:g} times as many."
    if old < MIN_GROUP_SIZE and new < MIN_GROUP_SIZE:
        return _passed("change_in_volume", bound.severity, words, "too few rows")
    passed = low * old <= new <= high * old
    facts: dict[str, int | float | str] = {
        "rows": format_count(new),
        f"rows in {label}": format_count(old),
    }
    if old >= MIN_GROUP_SIZE and new >= MIN_GROUP_SIZE:
        facts["ratio"] = round(new / old, 3)
        if not passed:
            words = f"{abs(new / old - 1):.0%} {'more' if new > old else 'fewer'} rows. {words}"
    return CheckResult("change_in_volume", passed, bound.severity, words, facts)


def _freshness(contract: Contract, valid: Path, occasion: Occasion) -> CheckResult:
    assert contract.freshness is not None
    column, days = contract.freshness
    if not occasion.is_live:
        words = (
            "Not judged: this source's dates are shifted or past, so they don't say how fresh it "
            "is."
        )
        return _passed("freshness", "error", words, "not a live source")
    newest = pl.scan_parquet(valid).select(pl.col(column).max()).collect().item()
    if newest is None:
        return _passed("freshness", "error", "There are no rows.", "no rows")
    day = dt.date.fromisoformat(occasion.snapshot)
    age = (day - newest.date()).days
    words = (
        f"The newest {column} lies {age} days before the snapshot's date; the contract allows "
        f"{days}."
    )
    if age < -1:
        words = (
            f"The newest {column} lies {-age} days after the snapshot's date: a date is wrong, or "
            "the label."
        )
    return CheckResult("freshness", -1 <= age <= days, "error", words, {"days": age, "bound": days})


# --------------------------------------------------------------------------------------------------
# Distribution


def _distribution(contract: Contract, valid: Path, occasion: Occasion) -> CheckResult:
    """Each group's (signal's, task's, kind's) share of the stays and its values, or each column's
    values.
    """
    bound = contract.bounds["distribution_shift"]
    if occasion.previous is None:
        return _no_earlier("distribution", bound.severity)
    label, file = occasion.previous
    tables = [pl.scan_parquet(table) for table in (file, valid)]
    limits = _Limits(bound.kwargs["max_distance"], bound.kwargs["min_count"])
    if "by" in bound.kwargs:
        compared, problems = _groups(tables, contract, bound.kwargs, limits)
    else:
        compared, problems = _columns(tables, contract, limits)
    facts: dict[str, int | float | str] = {
        "compared": compared,
        "shifted": len(problems),
        "bound": limits.distance,
    }
    if not compared:
        words = f"There is too little to compare with the snapshot of {label}."
        return _passed("distribution", bound.severity, words, "too few rows")
    if not problems:
        words = f"{compared} distributions are close to those of the snapshot of {label}."
        return CheckResult("distribution", True, bound.severity, words, facts)
    words = f"Against the snapshot of {label}: {'; '.join(problems)}."
    return CheckResult("distribution", False, bound.severity, words, facts)


@dataclass(frozen=True)
class _Limits:
    """``distance``: how far a distribution may move, beyond chance; ``fewest``: of how many it must
    be known.
    """

    distance: float
    fewest: int

    def broken(self, distance: float, n: int, m: int) -> bool:
        return distance > self.distance + _CHANCE * math.sqrt(1 / n + 1 / m)


def _groups(
    tables: list[pl.LazyFrame], contract: Contract, rule: Mapping[str, Any], limits: _Limits
) -> tuple[int, list[str]]:
    by = rule["by"]
    of = rule["of"]
    counts = [
        dict(
            t.select(by, of)
            .unique()
            .group_by(by)
            .len()
            .collect(engine="streaming")
            .drop_nulls()
            .iter_rows()
        )
        for t in tables
    ]
    whole = [t.select(pl.col(of).n_unique()).collect(engine="streaming").item() for t in tables]
    if min(whole) < limits.fewest:
        return 0, []
    values = [_values(t, contract, by, rule["value"]) if "value" in rule else {} for t in tables]
    problems = []
    known = sorted(name for name, n in counts[0].items() if n >= limits.fewest)
    for name in known:
        old = counts[0][name]
        new = counts[1].get(name, 0)
        expected = old / whole[0] * whole[1]
        if new == 0 and expected >= MIN_GROUP_SIZE:
            problems.append(f"{name} has vanished ({_share(old, whole[0])} had it)")
        elif limits.broken(abs(old / whole[0] - new / whole[1]), *whole):
            problems.append(
                f"{name}: {_share(new, whole[1])} have it, {_share(old, whole[0])} had it"
            )
        elif new >= limits.fewest and name in values[0] and name in values[1]:
            problems += _moved(name, values[0][name], values[1][name], limits, old, new)
    return len(known), problems


def _columns(
    tables: list[pl.LazyFrame], contract: Contract, limits: _Limits
) -> tuple[int, list[str]]:
    """Of the samples: every declared column."""
    structure = {name for name in contract.columns if name not in contract.optional}
    old, new = (_every_kth(t, contract).collect() for t in tables)
    shared = [name for name in old.columns if name in new.columns and name not in structure]
    if min(len(old), len(new)) < limits.fewest:
        return 0, []
    problems = []
    for name in shared:
        missing = [table[name].null_count() for table in (old, new)]
        if limits.broken(abs(missing[0] / len(old) - missing[1] / len(new)), len(old), len(new)):
            problems.append(
                f"{name} is missing for {_share(missing[1], len(new))}, it was for "
                f"{_share(missing[0], len(old))}"
            )
            continue
        before = old[name].drop_nulls()
        after = new[name].drop_nulls()
        if min(len(before), len(after)) < limits.fewest:
            continue
        if before.dtype.is_numeric() and after.dtype.is_numeric():
            problems += _moved(name, before, after, limits, len(before), len(after))
        elif before.dtype == after.dtype == pl.String:
            problems += _regrouped(name, before, after, limits)
    return len(shared), problems


def _values(table: pl.LazyFrame, contract: Contract, by: str, value: str) -> dict[str, pl.Series]:
    rows = _every_kth(table, contract).select(by, value).drop_nulls().collect()
    return {key[0]: part[value] for key, part in rows.partition_by(by, as_dict=True).items()}


def _every_kth(table: pl.LazyFrame, contract: Contract) -> pl.LazyFrame:
    total = table.select(pl.len()).collect().item()
    return table.gather_every(max(1, -(-total // contract.verified_rows)))


def _moved(name: str, old: pl.Series, new: pl.Series, limits: _Limits, n: int, m: int) -> list[str]:
    """Numbers, by Kolmogorov-Smirnov; n and m count stays, since the values of one stay are
    alike.
    """
    from scipy.stats import ks_2samp

    distance = float(ks_2samp(old.to_numpy(), new.to_numpy(), method="asymp").statistic)
    if not limits.broken(distance, n, m):
        return []
    below = [round(100 * int((part <= old.median()).sum()) / len(part)) for part in (old, new)]
    return [
        f"{name}: {below[1]}% of the values lie at or below the earlier median, {below[0]}% did "
        f"(distance {distance:.2f}, allowed {limits.distance:g} beyond chance)"
    ]


def _regrouped(name: str, old: pl.Series, new: pl.Series, limits: _Limits) -> list[str]:
    """Categories, by total variation: the share of rows that would have to change place."""
    shares = [dict(part.value_counts(normalize=True).iter_rows()) for part in (old, new)]
    moves = {
        key: shares[1].get(key, 0.0) - shares[0].get(key, 0.0) for key in shares[0] | shares[1]
    }
    distance = sum(map(abs, moves.values())) / 2
    if not limits.broken(distance, len(old), len(new)):
        return []
    return [
        f"{name}: {distance:.0%} of the rows would have to change their category to be as before "
        f"(allowed {limits.distance:.0%} beyond chance)"
    ]


def _share(part: int, whole: int) -> str:
    """A share with its small ends hidden.

    >>> _share(50, 100), _share(3, 100), _share(98, 100), _share(100, 100)
    ('50%', 'fewer than 10', 'all but fewer than 10', '100%')
    """
    if 0 < part < MIN_GROUP_SIZE:
        return f"fewer than {MIN_GROUP_SIZE}"
    if 0 < whole - part < MIN_GROUP_SIZE:
        return f"all but fewer than {MIN_GROUP_SIZE}"
    return f"{part / whole:.0%}"
