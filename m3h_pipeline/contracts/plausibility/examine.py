"""Examine a table by the plausibility rules that it has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.checks import CheckResult
from m3h_pipeline.contracts.plausibility.availability import find_missing_availability
from m3h_pipeline.contracts.plausibility.clusters import find_mixed_units
from m3h_pipeline.contracts.plausibility.findings import (
    Finding,
    drop_accepted,
    judge_findings,
    rank_findings,
)
from m3h_pipeline.contracts.plausibility.histogram import build_histograms
from m3h_pipeline.contracts.plausibility.names import find_misnamed_codes, find_similar_categories
from m3h_pipeline.contracts.plausibility.units import find_foreign_units
from m3h_pipeline.contracts.plausibility.values import find_outliers, find_sentinels, is_judged
from m3h_pipeline.sources.tasks_file import load_signals
from m3h_pipeline.wording import pluralize

_DESCRIPTIONS = {
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
# What the checks of a table look at.
_NOUNS = {"samples": "column", "events": "code", "labels": "task"}


def describe_plausibility_checks(table: str) -> dict[str, str]:
    """The checks of a table and what each asks.

    >>> list(describe_plausibility_checks("events"))
    ['units', 'sentinels', 'outliers', 'code_names', 'availability']
    >>> describe_plausibility_checks("notes")
    {}
    """
    return {name: _DESCRIPTIONS[name] for name in _CHECKS.get(table, ())}


@dataclass(frozen=True, kw_only=True)
class PlausibilityInput:
    """What is examined: a table as it was ingested and what was kept of it.

    ``signals``: the hospital's own codes with code, unit, low and high, and those that coverage
    chose, which are marked as covered; ``declared``: columns of
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


@dataclass(frozen=True)
class PlausibilityResult:
    """The checks of a table, and their findings that nobody has accepted, worst first."""

    checks: list[CheckResult]
    findings: list[Finding]


# Check -> its findings, and how many columns, codes or tasks it looked at.
_Outcomes = dict[str, tuple[list[Finding], int]]


def examine_table(inputs: PlausibilityInput) -> PlausibilityResult:
    """Judge a table by the rules that it has."""
    if inputs.table not in _CHECKS:
        return PlausibilityResult([], [])
    examine = {"samples": _examine_samples, "events": _examine_events, "labels": _examine_labels}
    outcomes = examine[inputs.table](inputs)
    checks = []
    open_findings: list[Finding] = []
    for name in _CHECKS[inputs.table]:
        findings, count = outcomes[name]
        severity = "error" if name == _STOPPING else "warning"
        looked_at = pluralize(count, _NOUNS[inputs.table]) if count else ""
        checks.append(judge_findings(name, severity, findings, inputs.accepted, looked_at))
        open_findings += drop_accepted(findings, inputs.accepted)
    return PlausibilityResult(checks, rank_findings(open_findings))


def _scan_readable(inputs: PlausibilityInput) -> pl.LazyFrame:
    """The ingested rows of which every field could be read."""
    return pl.scan_parquet(inputs.ingested).filter(pl.col("parse_errors").is_null())


def _examine_values(
    rows: pl.LazyFrame, table: str, ranges: Mapping[str, tuple[float, float]], with_units: bool
) -> _Outcomes:
    """Findings about the numbers of a table with the columns stay_id, code and value."""
    histograms = [histogram for histogram in build_histograms(rows) if is_judged(histogram)]
    sentinels: list[Finding] = []
    outliers: list[Finding] = []
    for histogram in histograms:
        sentinels += find_sentinels(histogram, table)
        low, high = ranges.get(histogram.code, (float("-inf"), float("inf")))
        is_in_range = (histogram.values >= low) & (histogram.values <= high)
        outliers += find_outliers(histogram.where(is_in_range), table)
    outcomes: _Outcomes = {
        "sentinels": (sentinels, len(histograms)),
        "outliers": (outliers, len(histograms)),
    }
    if with_units:
        outcomes["units"] = (find_mixed_units(histograms, rows, table), len(histograms))
    return outcomes


# Events -------------------------------------------------------------------------------------------


def _examine_events(inputs: PlausibilityInput) -> _Outcomes:
    rows = _scan_readable(inputs).select(
        "stay_id",
        pl.col("code").cast(pl.String),
        pl.col("value").cast(pl.Float64),
        pl.col("unit").cast(pl.String),
    )
    rows = rows.filter(pl.col("code").is_not_null())
    units = (
        rows.group_by("code", pl.col("unit").fill_null(""))
        .len()
        .sort("code", "unit")
        .collect(engine="streaming")
    )
    outcomes = _examine_values(rows, "events", _read_ranges(inputs.signals), with_units=True)
    outcomes["units"] = _merge_unit_findings(outcomes["units"], units, inputs.signals)
    outcomes["code_names"] = _examine_code_names(units, inputs.signals)
    labs = [signal.code for signal in load_signals() if signal.kind == "lab"]
    valid = pl.scan_parquet(inputs.valid)
    outcomes["availability"] = find_missing_availability(valid, labs, inputs.unread, "events")
    return outcomes


def _read_ranges(own_signals: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Code -> the range of its values; that of signals.yaml counts before the hospital's own."""
    ranges = {signal.code: (float(signal.low), float(signal.high)) for signal in load_signals()}
    for own in own_signals:
        low = float("-inf") if own["low"] is None else own["low"]
        high = float("inf") if own["high"] is None else own["high"]
        ranges.setdefault(own["code"], (low, high))
    return ranges


def _merge_unit_findings(
    by_values: tuple[list[Finding], int],
    units: pl.DataFrame,
    own_signals: Sequence[Mapping[str, Any]],
) -> tuple[list[Finding], int]:
    """What the values say of a code's unit, and what its rows name; each code is told once.

    ``units``: a row a code and unit, with its number of rows.
    """
    expected = {signal.code: signal.unit for signal in load_signals()}
    covered = {own["code"] for own in own_signals if own.get("covered")}
    # The unit of a covered signal is a text from its rows: only where it is sure to be a unit is it
    # named.
    expected |= {
        own["code"]: own["unit"]
        for own in own_signals
        if own["unit"] and own["code"] not in covered
    }
    by_names = find_foreign_units(units.iter_rows(), expected, "events")
    by_names = _warn_of_covered(by_names, covered)
    stopped = {finding.subject for finding in by_names if finding.stops}
    clustered, count = by_values
    clustered = _warn_of_covered(clustered, covered)
    kept = [finding for finding in clustered if finding.subject not in stopped]
    kept_codes = {finding.subject for finding in kept}
    others = [finding for finding in by_names if finding.subject not in kept_codes]
    codes_with_units = set(units.filter(pl.col("unit") != "")["code"])
    return kept + others, max(count, len(codes_with_units))


def _warn_of_covered(findings: Sequence[Finding], covered: Collection[str]) -> list[Finding]:
    """Nobody has said what the unit of a covered signal is, nor asked for it: a finding about it
    stops no run.
    """
    return [
        replace(finding, stops=False) if finding.subject in covered else finding
        for finding in findings
    ]


def _examine_code_names(
    units: pl.DataFrame, own_signals: Sequence[Mapping[str, Any]]
) -> tuple[list[Finding], int]:
    rows_by_code = dict(units.group_by("code").agg(pl.col("len").sum()).iter_rows())
    known_codes = [signal.code for signal in load_signals()]
    own_codes = [
        own["code"]
        for own in own_signals
        if own["unit"] or own["low"] is not None or own.get("covered")
    ]
    findings = find_misnamed_codes(rows_by_code, known_codes, own_codes, "events")
    return findings, len(rows_by_code)


# Samples and labels -------------------------------------------------------------------------------


def _examine_samples(inputs: PlausibilityInput) -> _Outcomes:
    rows = _scan_readable(inputs)
    schema = rows.collect_schema()
    declared = _select_declared(inputs, schema)
    numeric = [name for name in declared if schema[name].is_numeric()]
    texts = [name for name in declared if schema[name] == pl.String]
    numbers = rows.select("stay_id", *(pl.col(name).cast(pl.Float64) for name in numeric))
    long = numbers.unpivot(numeric, index="stay_id", variable_name="code", value_name="value")
    long = long.cast({"value": pl.Float64}).drop_nulls("value")
    outcomes = _examine_values(long, "samples", {}, with_units=True)
    findings = []
    for name in texts:
        counts = rows.group_by(name).len().drop_nulls(name).collect(engine="streaming")
        findings += find_similar_categories(dict(counts.iter_rows()), "samples", name)
    outcomes["categories"] = (findings, len(texts))
    return outcomes


def _select_declared(inputs: PlausibilityInput, schema: Mapping[str, pl.DataType]) -> Iterable[str]:
    """The declared columns, each once."""
    return [name for name in dict.fromkeys(inputs.declared) if name in schema]


def _examine_labels(inputs: PlausibilityInput) -> _Outcomes:
    rows = _scan_readable(inputs)
    tasks = {task.name: task for task in inputs.tasks}
    regressions = [name for name, task in tasks.items() if task.problem == "regression"]
    task_name = pl.col("task").cast(pl.String)
    numbers = rows.filter(task_name.is_in(regressions)).select(
        pl.col("sample_id").alias("stay_id"),
        task_name.alias("code"),
        pl.col("value").cast(pl.Float64),
    )
    outcomes = _examine_values(numbers, "labels", {}, with_units=False)
    outcomes["categories"] = _examine_classes(rows, list(tasks.values()))
    return outcomes


def _examine_classes(rows: pl.LazyFrame, tasks: Sequence[TaskSpec]) -> tuple[list[Finding], int]:
    """Of the tasks whose classes have names."""
    task_name = pl.col("task").cast(pl.String)
    counts = rows.group_by(task_name, "value").len().collect(engine="streaming")
    rows_by_class = {(name, value): count for name, value, count in counts.iter_rows()}
    named = [task for task in tasks if task.problem == "multiclass" and task.class_names]
    findings = []
    for task in named:
        rows_by_name = {
            name: rows_by_class.get((task.name, float(place)), 0)
            for place, name in enumerate(task.class_names)
        }
        findings += find_similar_categories(rows_by_name, "labels", task.name)
    return findings, len(named)
