"""The report: one HTML file that opens offline, and what it is made from."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from m3h_pipeline import wording
from m3h_pipeline.contracts.checks import STATES, format_states
from m3h_pipeline.evaluation import claims
from m3h_pipeline.reports import charts, interaction
from m3h_pipeline.reports.findings import Look
from m3h_pipeline.reports.flow import flow_sentences

if TYPE_CHECKING:
    import jinja2


class Model(TypedDict):
    """The registered model; ``run_url`` links to its MLflow run."""

    name: str
    version: str
    run_url: NotRequired[str | None]


class CohortFacts(TypedDict):
    """Counts; ``splits``: {split: samples}; ``modalities``: {modality: samples that have it}."""

    samples: int
    subjects: int
    splits: dict[str, int]
    modalities: dict[str, int]


class LineageRow(TypedDict):
    """Rows read of a table's file with one outcome ("kept", "out_of_scope", "quarantined") for one
    reason.
    """

    table: str
    file: str
    outcome: str
    reason: str | None
    rows: int


class Check(TypedDict):
    """One check of one table; ``state``: one of `contracts.checks.STATES`."""

    table: str
    name: str
    state: str
    description: str


class ReportData(TypedDict):
    """All that the page shows; ``metrics``, ``tim``, ``trust``, ``detail``, ``gate`` hold what
    their JSON files do.

    ``flow``: see `flow.sample_flow`; ``erased``: table -> rows erased for forgotten patients since
    the ``checks``.

    ``drift`` is that of monitoring.json, with the ``champion``'s version (None: there is none) and
    the ``checks``.
    """

    title: str
    source: str
    synthetic: bool
    snapshot: str
    model: Model
    cohort: CohortFacts
    lineage: list[LineageRow]
    flow: dict[str, Any]
    erased: dict[str, int]
    checks: list[Check]
    gate: dict[str, Any]
    looks: list[Look]
    metrics: dict[str, Any]
    tim: dict[str, Any] | None
    trust: dict[str, Any]
    detail: dict[str, Any]
    drift: dict[str, Any]
    limits: list[str]


def write_report(data: ReportData | dict[str, Any], to: Path) -> None:
    """Write the page to the file ``to`` (or ``to/report.html`` where ``to`` is a folder).

    The same data gives the same bytes: nothing depends on the clock or the folder. Counts of
    patients under 10 never reach the file, neither on the page nor in its sort keys and tooltips.

    Raises:
        ValueError: a part of `ReportData` is missing.
    """
    if missing := ReportData.__required_keys__ - data.keys():
        raise ValueError(f"the report's data lacks {', '.join(sorted(missing))}")
    path = to / "report.html" if to.is_dir() else to
    path.write_text(_render(data), encoding="utf-8", newline="\n")


def page_templates() -> jinja2.Environment:
    """The templates of all pages: what is undefined is an error, text is escaped, `wording` gives the
    filters.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("m3h_pipeline.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=wording.format_number,
        interval=wording.format_interval,
        count=wording.format_count,
        part=wording.format_part,
        share=wording.format_share,
        name=wording.format_name,
        metric=wording.format_metric,
        plural=wording.pluralize,
    )
    return environment


def _render(data: Mapping[str, Any]) -> str:
    environment = page_templates()
    script = environment.get_template("script.js.j2").render()
    tasks = data["metrics"]["tasks"]
    return environment.get_template("report.html.j2").render(
        **data,
        palette=charts.PALETTE,
        script=script,
        check_tally=format_states(
            {state: sum(c["state"] == state for c in data["checks"]) for state in STATES}
        ),
        # Nothing is fetched, and no script runs but this one, whatever a task's name holds.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=claims.write_sentences(data["detail"]["comparisons"], tasks),
        split_counts=wording.format_parts(data["cohort"]["splits"]),
        tables=_tables(data["lineage"]),
        flow_sentences=flow_sentences(data["flow"]),
        gate_said={check["name"]: check["reason"] for check in data["gate"]["checks"]},
        quarantine_reasons=_reasons(data["lineage"]),
        departments=_departments(tasks),
        comparison=_comparison(tasks),
        curves=_curves(data["detail"]["curves"], tasks),
        interaction=interaction.section(data["tim"], tasks) if data["tim"] else None,
    )


def _tables(lineage: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows read, and what became of them, by table and file."""
    outcomes: dict[tuple[str, str], Counter[str]] = {}
    for row in lineage:
        outcomes.setdefault((row["table"], row["file"]), Counter())[row["outcome"]] += row["rows"]
    in_order = dict.fromkeys(table for table, _ in outcomes)
    return [
        {"table": table, "file": file, "read": sum(counts.values()), **counts}
        for shown in in_order
        for (table, file), counts in outcomes.items()
        if table == shown
    ]


def _reasons(lineage: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Why rows were left out, most first within a table and an outcome."""
    rows: Counter[tuple[str, str, str]] = Counter()
    for row in lineage:
        if row["outcome"] != "kept" and row["rows"]:
            rows[row["table"], row["outcome"], row["reason"] or "no reason given"] += row["rows"]
    order = list(dict.fromkeys(table for table, _, _ in rows))
    return [
        {"table": table, "outcome": outcome, "reason": reason, "rows": number}
        for (table, outcome, reason), number in sorted(
            rows.items(),
            key=lambda item: (order.index(item[0][0]), item[0][1], -item[1], item[0][2]),
        )
    ]


def _departments(tasks: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Tasks as the table shows them; counts are words by now, so that no hidden one can slip
    through.
    """
    departments: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        binary = task["problem"] == "binary"
        shown = {
            **task,
            "verdict": claims.get_verdict(task) if task["claimed"] else None,
            "trees_verdict": claims.get_verdict(task, "trees") if task["claimed"] else None,
            "why_not": task.get("reason") or "too few test labels",
            "n": wording.format_count(task["n"]),
            "positives": wording.format_part(task["positives"], task["n"])
            if binary
            else wording.NO_VALUE,
        }
        departments.setdefault(task["department"], []).append(shown)
    return departments


def _curves(curves: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tasks that have curves, in the order of the table, each with its chart."""
    from m3h_pipeline.reports.curves import task_curves

    label = "Curves of this task; the table below holds the thresholds that are used most."
    return [
        {"thresholds": [], **curves[task["task"]], "name": task["task"],
         **{key: task[key] for key in ("metric", "value", "low", "high")},
         "plot": charts.svg(task_curves(curves[task["task"]]), label)}
        for task in tasks
        if task["task"] in curves
    ]  # fmt: skip


def _comparison(tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The interval chart, in two columns that stand side by side where there is room."""
    plots = charts.interval_charts(tasks, columns=2)
    if not plots:
        return None
    label = (
        "Joint minus single-task with its interval, by department; the table above holds the same "
        "numbers."
    )
    return {
        "plots": [charts.svg(plot, label) for plot in plots],
        "left_out": sum(not (t["claimed"] and wording.is_number(t["difference"])) for t in tasks),
    }
