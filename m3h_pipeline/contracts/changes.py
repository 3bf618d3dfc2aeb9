"""What breaks a table as a whole: another shape, another size or other values than the last
snapshot's, or old data.

The bounds are the contract's; a snapshot is compared with the last one before it that passed. A
message says what was seen, what was expected and what to do; it holds counts and shares, no values,
and hides groups under ten.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import polars as pl

from m3h_pipeline.contracts.checks import CheckResult
from m3h_pipeline.contracts.context import ValidationContext, apply_acceptance
from m3h_pipeline.contracts.distribution import find_shifts
from m3h_pipeline.contracts.model import Contract
from m3h_pipeline.contracts.shape import name_type
from m3h_pipeline.wording import MIN_GROUP_SIZE, format_count


def check_changes(contract: Contract, valid: Path, context: ValidationContext) -> list[CheckResult]:
    """The checks of a table as a whole, of those that its contract asks for."""
    checks = {
        "schema": _check_schema,
        "change_in_volume": _check_volume,
        "distribution": _check_distribution,
        "freshness": _check_freshness,
    }
    results = [
        check(contract, valid, context) for name, check in checks.items() if name in contract.checks
    ]
    return [_accept_or_advise(contract, result, context) for result in results]


def _accept_or_advise(
    contract: Contract, result: CheckResult, context: ValidationContext
) -> CheckResult:
    """A breach that a person accepted passes, and says so; any other says how to accept it."""
    result = apply_acceptance(result, context)
    if result.passed:
        return result
    entry = f"{context.snapshot} {contract.table} {result.name}"
    text = (
        f"{result.description} What to do: mend the extraction and run again; or, if this is "
        f'right, add "{entry}" to accepted under [validation] in m3h.toml and run again.'
    )
    return replace(result, description=text)


def _pass_unjudged(name: str, severity: str, text: str, note: str) -> CheckResult:
    return CheckResult(name, True, severity, text, {"note": note})


def _pass_first_snapshot(name: str, severity: str) -> CheckResult:
    text = "There is no earlier snapshot to compare with."
    return _pass_unjudged(name, severity, text, "no earlier snapshot")


def _check_schema(contract: Contract, valid: Path, context: ValidationContext) -> CheckResult:
    """Declared columns that the last snapshot had must be there, of the same type. New ones are
    welcome.
    """
    if context.previous is None:
        return _pass_first_snapshot("schema", "error")
    label, file = context.previous
    old = {name: name_type(dtype) for name, dtype in pl.read_parquet_schema(file).items()}
    new = {name: name_type(dtype) for name, dtype in pl.read_parquet_schema(valid).items()}
    problems = [f"the column {name} is gone" for name in old if name not in new]
    problems += [
        f"the column {name} is {new[name]}, it was {old[name]}"
        for name in old
        if name in new and new[name] != old[name]
    ]
    facts: dict[str, int | float | str] = {"columns": len(new)}
    if problems:
        text = f"Against the snapshot of {label}: {'; '.join(problems)}."
        return CheckResult("schema", False, "error", text, facts | {"problems": len(problems)})
    text = f"The columns are those of the contract and of the snapshot of {label}."
    added = [name for name in new if name not in old]
    if added:
        text += f" New: {', '.join(added)}."
    return CheckResult("schema", True, "error", text, facts)


def _check_volume(contract: Contract, valid: Path, context: ValidationContext) -> CheckResult:
    bound = contract.bounds["volume_change"]
    if context.previous is None:
        return _pass_first_snapshot("change_in_volume", bound.severity)
    label, file = context.previous
    old = _count_rows(file)
    new = _count_rows(valid)
    low = bound.kwargs["min_ratio"]
    high = bound.kwargs["max_ratio"]
    text = (
        f"There are {format_count(new)} rows; the snapshot of {label} had {format_count(old)}, the "
        f"contract allows {low:g} to {high:g} times as many."
    )
    if old < MIN_GROUP_SIZE and new < MIN_GROUP_SIZE:
        return _pass_unjudged("change_in_volume", bound.severity, text, "too few rows")
    passed = low * old <= new <= high * old
    facts: dict[str, int | float | str] = {
        "rows": format_count(new),
        f"rows in {label}": format_count(old),
    }
    if old >= MIN_GROUP_SIZE and new >= MIN_GROUP_SIZE:
        facts["ratio"] = round(new / old, 3)
        if not passed:
            direction = "more" if new > old else "fewer"
            text = f"{abs(new / old - 1):.0%} {direction} rows. {text}"
    return CheckResult("change_in_volume", passed, bound.severity, text, facts)


def _count_rows(file: Path) -> int:
    return pl.scan_parquet(file).select(pl.len()).collect().item()


def _check_distribution(contract: Contract, valid: Path, context: ValidationContext) -> CheckResult:
    bound = contract.bounds["distribution_shift"]
    if context.previous is None:
        return _pass_first_snapshot("distribution", bound.severity)
    label, file = context.previous
    compared, problems = find_shifts(contract, file, valid, context.covered)
    if not compared:
        text = f"There is too little to compare with the snapshot of {label}."
        return _pass_unjudged("distribution", bound.severity, text, "too few rows")
    facts: dict[str, int | float | str] = {
        "compared": compared,
        "shifted": len(problems),
        "bound": bound.kwargs["max_distance"],
    }
    if not problems:
        text = f"{compared} distributions are close to those of the snapshot of {label}."
        return CheckResult("distribution", True, bound.severity, text, facts)
    text = f"Against the snapshot of {label}: {'; '.join(problems)}."
    return CheckResult("distribution", False, bound.severity, text, facts)


def _check_freshness(contract: Contract, valid: Path, context: ValidationContext) -> CheckResult:
    assert contract.freshness is not None
    column, max_days = contract.freshness
    if not context.is_live:
        text = (
            "Not judged: this source's dates are shifted or past, so they don't say how fresh it "
            "is."
        )
        return _pass_unjudged("freshness", "error", text, "not a live source")
    newest = pl.scan_parquet(valid).select(pl.col(column).max()).collect().item()
    if newest is None:
        return _pass_unjudged("freshness", "error", "There are no rows.", "no rows")
    age = (dt.date.fromisoformat(context.snapshot) - newest.date()).days
    text = (
        f"The newest {column} lies {age} days before the snapshot's date; the contract allows "
        f"{max_days}."
    )
    if age < -1:
        text = (
            f"The newest {column} lies {-age} days after the snapshot's date: a date is wrong, or "
            "the label."
        )
    facts: dict[str, int | float | str] = {"days": age, "bound": max_days}
    return CheckResult("freshness", -1 <= age <= max_days, "error", text, facts)
