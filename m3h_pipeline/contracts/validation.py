"""Validate one table: split it, verify what was kept, compare it with the last snapshot, and ask
whether its rows together make sense.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.changes import check_changes
from m3h_pipeline.contracts.checks import CONTRACT_CHECKS, CheckResult, add_state
from m3h_pipeline.contracts.context import ValidationContext, apply_acceptance
from m3h_pipeline.contracts.model import Contract
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.plausibility.examine import (
    PlausibilityInput,
    describe_plausibility_checks,
    examine_table,
)
from m3h_pipeline.contracts.quarantine_csv import write_quarantine_csv
from m3h_pipeline.contracts.shape import find_shape_problems
from m3h_pipeline.contracts.split import split_rows
from m3h_pipeline.contracts.verify import verify
from m3h_pipeline.state.permissions import create_private_file


def list_checks(table: str) -> list[str]:
    """Names of the checks that `validate` reports for a table."""
    return list(describe_checks(table))


def describe_checks(table: str) -> dict[str, str]:
    """The checks of a table and what each means; quick, without Great Expectations.

    >>> list(describe_checks("notes"))
    ['schema', 'contract', 'quarantine', 'change_in_volume', 'distribution']
    >>> list(describe_checks("labels"))[-3:]
    ['sentinels', 'outliers', 'categories']
    """
    of_contract = {name: CONTRACT_CHECKS[name] for name in load_contract(table).checks}
    return of_contract | describe_plausibility_checks(table)


def validate(
    table: str,
    ingested: Path,
    to: Path,
    *,
    samples: Path | None = None,
    tasks: Sequence[TaskSpec | dict[str, Any]] = (),
    signals: Sequence[Mapping[str, Any]] = (),
    declared: Iterable[str] = (),
    unread: Sequence[str] = (),
    context: ValidationContext | None = None,
) -> dict[str, Any]:
    """Split a table into ``to/<table>.parquet`` and ``to/quarantine.parquet``, then verify what was
    kept.

    ``samples``: the valid samples, with their quarantine beside them; None for the samples
    themselves. ``signals``: codes beyond those of signals.yaml, each with code, unit, low and high,
    or null where there is no such bound. ``declared``: columns beyond the contract's; ``unread``:
    columns of the source's file that nobody reads; ``context``: the snapshot, and the last one
    before it (None: judged by itself). A table of the wrong shape is not split: the check
    ``schema`` says why, and nothing of the table is kept. Returns JSON-ready facts: kept,
    quarantined (by rule), by_file, checks (each a `CheckResult` as a dict) and findings (what the
    plausibility checks found).
    """
    context = context or ValidationContext("")
    declared = list(declared)
    specs = [task if isinstance(task, TaskSpec) else TaskSpec.from_dict(task) for task in tasks]
    valid = to / f"{table}.parquet"
    contract = load_contract(table)
    problems = find_shape_problems(contract, pl.read_parquet_schema(ingested), declared)
    if problems:
        return _refuse(contract, problems, valid)
    split = split_rows(
        table,
        ingested,
        valid,
        to / "quarantine.parquet",
        samples=samples,
        quarantined_samples=samples and samples.with_name("quarantine.parquet"),
        tasks=specs,
        signals=signals,
    )
    checks = verify(table, valid, split, samples=samples, tasks=specs, signals=signals)
    checks += check_changes(contract, valid, context)
    checks.sort(key=lambda check: contract.checks.index(check.name))
    plausibility = examine_table(
        PlausibilityInput(
            table=table,
            ingested=ingested,
            valid=valid,
            tasks=specs,
            signals=signals,
            declared=declared,
            unread=unread,
            accepted=context.entries,
        )
    )
    checks += [apply_acceptance(check, context) for check in plausibility.checks]
    return {
        "kept": split.kept,
        "quarantined": split.quarantined_by_rule,
        "by_file": split.by_file,
        "checks": [asdict(add_state(check)) for check in checks],
        "findings": [
            finding.to_dict()
            for finding in plausibility.findings
            if finding.check not in context.accepted
        ],
    }


def _refuse(contract: Contract, problems: Sequence[str], valid: Path) -> dict[str, Any]:
    """The results of a table of the wrong shape: empty, for nothing of it can be trusted."""
    pl.DataFrame(schema=dict(contract.columns)).write_parquet(valid)
    _write_empty_quarantine(valid.with_name("quarantine.parquet"))
    text = (
        f"{'; '.join(problems)}. The source must deliver what "
        f"data_contracts/{contract.table}.odcs.yaml says: mend the extraction, or change the "
        "contract and raise its version, then run again."
    )
    text = text[0].upper() + text[1:]
    checks = [CheckResult("schema", False, "error", text, {"problems": len(problems)})]
    checks += [_skip(name) for name in list_checks(contract.table) if name != "schema"]
    return {
        "kept": 0,
        "quarantined": {},
        "by_file": {},
        "checks": [asdict(add_state(check)) for check in checks],
        "findings": [],
    }


def _write_empty_quarantine(file: Path) -> None:
    create_private_file(file)
    text_columns = dict.fromkeys(("row", "rule", "reason", "source_file"), pl.String())
    pl.DataFrame(schema={**text_columns, "source_row": pl.Int64()}).write_parquet(file)
    write_quarantine_csv(file, {})


def _skip(name: str) -> CheckResult:
    """A check that could not be made, of a table of the wrong shape."""
    text = "Not judged: the table has the wrong shape."
    return CheckResult(name, True, "error", text, {"note": "not judged"})
