"""What a data steward would look at before trusting a table: units, stand-ins for "missing",
outliers, names, times.

The contract says what a row must be; these rules ask whether the rows together make sense. They
read a table once, as a fine histogram a code, and name codes, counts and medians, no patient's
values. What stops the run is two units under one code; all else warns. What is right is accepted by
a line in m3h.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from m3h_core.tasks import TaskSpec
from m3h_pipeline.sources.tasks_file import load_signals
from m3h_pipeline.wording import pluralize

if TYPE_CHECKING:
    from m3h_pipeline.contracts import CheckResult
    from m3h_pipeline.contracts.plausibility.findings import Finding

_ABOUT = {
    "units": (
        "The values of a code are in one unit: none is declared otherwise, and no second group of "
        "values lies a unit's factor away."
    ),
    "sentinels": "No number such as -999 stands for a value that is missing.",
    "outliers": "No value lies far beyond all others of its code.",
    "code_names": "No code is a known signal under another name.",
    "availability": "Results say when they became known.",
    "categories": "No two categories differ by case, blanks or punctuation alone.",
}
# The checks of each table, beside those of its contract.
_CHECKS = {
    "samples": ("units", "sentinels", "outliers", "categories"),
    "events": ("units", "sentinels", "outliers", "code_names", "availability"),
    "labels": ("sentinels", "outliers", "categories"),
}
_STOPPING = "units"


def descriptions(table: str) -> dict[str, str]:
    """The checks of a table and what each asks.

    >>> list(descriptions("events")), descriptions("notes")
    (['units', 'sentinels', 'outliers', 'code_names', 'availability'], {})
    """
    return {name: _ABOUT[name] for name in _CHECKS.get(table, ())}


@dataclass(frozen=True)
class Examined:
    """The checks of a table, and what they found that nobody has accepted, worst first."""

    checks: list[CheckResult]
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What is examined: a table as it was ingested and what was kept of it.

    ``signals``: the hospital's own codes with code, unit, low and high; ``declared``: columns of
    the samples beyond the contract's; ``unread``: columns of the source's file that nobody reads;
    ``accepted``: the entries of m3h.toml.
    """

    table: str
    ingested: Path
    valid: Path
    tasks: Sequence[TaskSpec] = ()
    signals: Sequence[Mapping[str, Any]] = ()
    declared: Sequence[str] = ()
    unread: Sequence[str] = ()
    accepted: Sequence[str] = ()


def examine(tables: Tables) -> Examined:
    """Judge a table by the rules that it has."""
    from m3h_pipeline.contracts.plausibility.findings import ranked, verdict, without_accepted

    if tables.table not in _CHECKS:
        return Examined([], [])
    judge = {"samples": _samples, "events": _events, "labels": _labels}[tables.table]
    noun = {"samples": "column", "events": "code", "labels": "task"}[tables.table]
    found = judge(tables)
    checks = []
    findings: list[Finding] = []
    for name in _CHECKS[tables.table]:
        of_check, judged = found[name]
        severity = "error" if name == _STOPPING else "warning"
        looked_at = pluralize(judged, noun) if judged else ""
        checks.append(verdict(name, severity, of_check, tables.accepted, looked_at))
        findings += without_accepted(of_check, tables.accepted)
    return Examined(checks, ranked(findings))


_Found = dict[str, tuple[list["Finding"], int]]


def _values(
    rows: pl.LazyFrame, table: str, ranges: Mapping[str, tuple[float, float]], with_units: bool
) -> _Found:
    """Findings about the numbers of a table with the columns stay_id, code and value."""
    from m3h_pipeline.contracts.plausibility.clusters import mixed_units
    from m3h_pipeline.contracts.plausibility.histogram import histograms
    from m3h_pipeline.contracts.plausibility.values import is_judged, outliers, sentinels

    whole = [histogram for histogram in histograms(rows) if is_judged(histogram)]
    of_range = []
    for histogram in whole:
        low, high = ranges.get(histogram.code, (float("-inf"), float("inf")))
        of_range.append(histogram.where((histogram.values >= low) & (histogram.values <= high)))
    found: _Found = {
        "sentinels": (
            [one for histogram in whole for one in sentinels(histogram, table)],
            len(whole),
        ),
        "outliers": (
            [one for histogram in of_range for one in outliers(histogram, table)],
            len(whole),
        ),
    }
    if with_units:
        found["units"] = (mixed_units(whole, rows, table), len(whole))
    return found


def _events(tables: Tables) -> _Found:
    from m3h_pipeline.contracts.plausibility.availability import always_known_at_once
    from m3h_pipeline.contracts.plausibility.names import code_names
    from m3h_pipeline.contracts.plausibility.units import several_units

    ingested = pl.scan_parquet(tables.ingested).filter(pl.col("parse_errors").is_null())
    rows = ingested.select(
        "stay_id", "code", pl.col("value").cast(pl.Float64), pl.col("unit").cast(pl.String)
    )
    rows = rows.with_columns(pl.col("code").cast(pl.String)).filter(pl.col("code").is_not_null())
    known = load_signals()
    expected = {signal.code: signal.unit for signal in known}
    expected |= {own["code"]: own["unit"] for own in tables.signals if own["unit"]}
    ranges = {signal.code: (float(signal.low), float(signal.high)) for signal in known}
    for own in tables.signals:
        low = float("-inf") if own["low"] is None else own["low"]
        high = float("inf") if own["high"] is None else own["high"]
        ranges.setdefault(own["code"], (low, high))

    units = (
        rows.group_by("code", pl.col("unit").fill_null(""))
        .len()
        .sort("code", "unit")
        .collect(engine="streaming")
    )
    declared = several_units(units.iter_rows(), expected, "events")
    named = {finding.subject for finding in declared if finding.stops}
    with_units = set(units.filter(pl.col("unit") != "")["code"])
    found = _values(rows, "events", ranges, with_units=True)
    clustered, judged = found["units"]
    counts = dict(units.group_by("code").agg(pl.col("len").sum()).iter_rows())
    # A code whose rows name two units is told once.
    beside = [finding for finding in clustered if finding.subject not in named]
    clusters = {finding.subject for finding in beside}
    found["units"] = (
        beside + [one for one in declared if one.subject not in clusters],
        max(judged, len(with_units)),
    )
    own_codes = [own["code"] for own in tables.signals if own["unit"] or own["low"] is not None]
    found["code_names"] = (
        code_names(counts, [s.code for s in known], own_codes, "events"),
        len(counts),
    )
    labs = [signal.code for signal in known if signal.kind == "lab"]
    valid = pl.scan_parquet(tables.valid)
    found["availability"] = always_known_at_once(valid, labs, tables.unread, "events")
    return found


def _samples(tables: Tables) -> _Found:
    from m3h_pipeline.contracts.plausibility.names import alike

    rows = pl.scan_parquet(tables.ingested).filter(pl.col("parse_errors").is_null())
    schema = rows.collect_schema()
    columns = [name for name in _features(tables, schema) if schema[name].is_numeric()]
    texts = [name for name in _features(tables, schema) if schema[name] == pl.String]
    numbers = rows.select("stay_id", *(pl.col(name).cast(pl.Float64) for name in columns))
    long = numbers.unpivot(columns, index="stay_id", variable_name="code", value_name="value")
    long = long.cast({"value": pl.Float64}).drop_nulls("value")
    found = _values(long, "samples", {}, with_units=True)
    findings = []
    for name in texts:
        counts = rows.group_by(name).len().drop_nulls(name).collect(engine="streaming")
        findings += alike(dict(counts.iter_rows()), "samples", name)
    found["categories"] = (findings, len(texts))
    return found


def _features(tables: Tables, schema: Mapping[str, pl.DataType]) -> Iterable[str]:
    """The declared columns, each once."""
    return [name for name in dict.fromkeys(tables.declared) if name in schema]


def _labels(tables: Tables) -> _Found:
    from m3h_pipeline.contracts.plausibility.names import alike

    rows = pl.scan_parquet(tables.ingested).filter(pl.col("parse_errors").is_null())
    tasks = {task.name: task for task in tables.tasks}
    regressions = [name for name, task in tasks.items() if task.problem == "regression"]
    task = pl.col("task").cast(pl.String)
    numbers = rows.filter(task.is_in(regressions)).select(
        pl.col("sample_id").alias("stay_id"), task.alias("code"), pl.col("value").cast(pl.Float64)
    )
    found = _values(numbers, "labels", {}, with_units=False)
    counts = rows.group_by(task, "value").len().collect(engine="streaming")
    by_class = {(name, value): count for name, value, count in counts.iter_rows()}
    findings = []
    with_names = [
        spec for spec in tasks.values() if spec.problem == "multiclass" and spec.class_names
    ]
    for spec in with_names:
        rows_of_class = {
            name: by_class.get((spec.name, float(i)), 0) for i, name in enumerate(spec.class_names)
        }
        findings += alike(rows_of_class, "labels", spec.name)
    found["categories"] = (findings, len(with_names))
    return found
