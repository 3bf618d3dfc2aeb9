"""Verify what was kept, with Great Expectations, and bound what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.checks import CheckResult
from m3h_pipeline.contracts.expectations import ROW_COUNT
from m3h_pipeline.contracts.model import Contract, Rule
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.split import SAMPLE_QUARANTINED, SplitResult
from m3h_pipeline.contracts.suites import find_broken_rules
from m3h_pipeline.contracts.view import build_lookups, build_view
from m3h_pipeline.wording import MIN_GROUP_SIZE, format_count


def verify(
    table: str,
    valid: Path,
    split: SplitResult,
    *,
    samples: Path | None = None,
    tasks: Sequence[TaskSpec] = (),
    signals: Sequence[Mapping[str, Any]] = (),
) -> list[CheckResult]:
    """Hold the kept rows against the contract anew, with Great Expectations, and bound what was not
    kept.

    All rows are verified up to the number that the contract names, and every k-th beyond.
    Returns the checks that need no other snapshot.
    """
    contract = load_contract(table)
    rows = pl.scan_parquet(valid)
    total = rows.select(pl.len()).collect().item()
    rules = contract.rules_for(rows.collect_schema().names())
    row_counts = [rule for rule in rules if rule.type == ROW_COUNT]
    others = [rule for rule in rules if rule.type != ROW_COUNT]
    broken: set[str] = set()
    observed = {"rows": total, "rows verified": 0}
    if total:
        step = -(-total // contract.verified_rows)
        verified = rows.gather_every(step)
        lookups = build_lookups(contract, verified, samples, tasks, signals)
        needed = dict.fromkeys(column for rule in others for column in rule.columns)
        view = build_view(contract, verified, lookups).select(list(needed))
        broken = find_broken_rules(view.collect(engine="streaming"), others)
        observed["rows verified"] = -(-total // step)
    errors = [rule for rule in others if rule.severity == "error"]
    warnings = [rule for rule in others if rule.severity == "warning"]
    results = {
        "contract": _judge_rules("contract", errors, broken, observed),
        "quarantine": _judge_quarantine(contract, split),
        "volume": _judge_volume(row_counts, total),
        "warnings": _judge_rules("warnings", warnings, broken, observed),
    }
    return [results[name] for name in contract.checks if name in results]


def _judge_rules(
    name: str, rules: Sequence[Rule], broken_names: set[str], observed: Mapping[str, int]
) -> CheckResult:
    severity = "warning" if name == "warnings" else "error"
    facts: dict[str, int | float | str] = {**observed, "rules": len(rules)}
    if not observed["rows"]:
        text = "There are no rows, so no rule was judged."
        return CheckResult(name, True, severity, text, facts | {"note": "no rows"})
    broken = [rule for rule in rules if rule.name in broken_names]
    if not broken:
        text = f"All {len(rules)} rules hold for the rows that were kept."
        return CheckResult(name, True, severity, text, facts)
    reasons = " ".join(f"{rule.name}: {rule.description}" for rule in broken)
    facts["broken"] = ", ".join(rule.name for rule in broken)
    text = f"{len(broken)} of {len(rules)} rules are broken. {reasons}"
    return CheckResult(name, False, severity, text, facts)


def _judge_quarantine(contract: Contract, split: SplitResult) -> CheckResult:
    bound = contract.bounds["quarantined_share"]
    allowed = bound.kwargs["max_value"]
    total = split.kept + split.quarantined
    facts: dict[str, int | float | str] = {
        "rows": total,
        "quarantined": split.quarantined,
        "share": round(split.share, 6),
        "bound": allowed,
        **{f"rule {rule}": rows for rule, rows in split.quarantined_by_rule.items()},
    }
    if not total:
        return CheckResult(
            "quarantine", True, bound.severity, "There are no rows.", facts | {"note": "no rows"}
        )
    is_small = 0 < split.quarantined < MIN_GROUP_SIZE
    share = f"Fewer than {MIN_GROUP_SIZE}" if is_small else f"{split.share:.2%}"
    text = f"{share} of the rows are in quarantine; the contract allows {allowed:.0%}."
    own_rules = {
        rule: rows for rule, rows in split.quarantined_by_rule.items() if rule != SAMPLE_QUARANTINED
    }
    if own_rules:
        most = max(own_rules, key=lambda rule: own_rules[rule])
        text += (
            f" Most frequent reason: {most} ({format_count(own_rules[most])} of {total:,} rows)."
            " Each lies in quarantine.parquet with its reason."
        )
    return CheckResult("quarantine", split.share <= allowed, bound.severity, text, facts)


def _judge_volume(rules: Sequence[Rule], total: int) -> CheckResult:
    # Counted here: Great Expectations may see only a part of the rows, and judges an empty table
    # unevenly.
    broken = [rule for rule in rules if not _allows(rule, total)]
    text = " ".join(rule.description for rule in broken) or f"There are {total:,} rows."
    facts: dict[str, int | float | str] = {"rows": total}
    if not total:
        facts["note"] = "no rows"
    return CheckResult("volume", not broken, "error", text, facts)


def _allows(rule: Rule, total: int) -> bool:
    return rule.kwargs.get("min_value", 0) <= total <= rule.kwargs.get("max_value", total)
