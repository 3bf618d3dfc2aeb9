"""The report: one HTML file that opens offline, and what it is made from."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from m3h_pipeline.contracts.checks import STATES, format_states
from m3h_pipeline.evaluation import claims
from m3h_pipeline.evaluation.method import describe_evaluation
from m3h_pipeline.reports import charts, interaction
from m3h_pipeline.reports.curves import draw_curves
from m3h_pipeline.reports.environment import build_environment
from m3h_pipeline.reports.findings import Highlight
from m3h_pipeline.reports.flow import describe_flow
from m3h_pipeline.wording import NO_VALUE, format_count, format_part, format_parts, is_number


class Model(TypedDict):
    """The registered model; ``run_url`` links to its MLflow run."""

    name: str
    version: str
    run_url: NotRequired[str | None]


class CohortFacts(TypedDict):
    """Counts; ``judged``: the samples that the model is judged by; ``splits``: {split: samples};
    ``folds``: {fold: samples}, empty where the cohort is not cross-fitted; ``modalities``:
    {modality: samples that have it}.
    """

    samples: int
    subjects: int
    judged: int
    folds: dict[str, int]
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


class EmbeddingFacts(TypedDict):
    """What a modality's vectors cost: ``seconds`` of wall time in the run that made them."""

    encoder: str | None
    columns: int
    seconds: float


class ReportData(TypedDict):
    """All that the page shows; ``metrics``, ``tim``, ``trust``, ``detail``, ``gate`` hold what
    their JSON files do.

    ``flow``: see `flow.count_sample_flow`; ``erased``: table -> rows erased for forgotten patients
    since the ``checks``.

    ``embeddings``: modality -> what its vectors cost.

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
    highlights: list[Highlight]
    metrics: dict[str, Any]
    tim: dict[str, Any] | None
    trust: dict[str, Any]
    detail: dict[str, Any]
    embeddings: dict[str, EmbeddingFacts]
    drift: dict[str, Any]
    limits: list[str]


def write_report(data: ReportData | dict[str, Any], to: Path) -> None:
    """Write the page to the file ``to`` (or ``to/report.html`` where ``to`` is a folder).

    The same data gives the same bytes: nothing depends on the clock or the folder. Counts of
    patients under 10 never reach the file, neither on the page nor in its sort keys and tooltips.

    Raises:
        ValueError: a part of `ReportData` is missing.
    """
    missing = ReportData.__required_keys__ - data.keys()
    if missing:
        raise ValueError(f"the report's data lacks {', '.join(sorted(missing))}")
    path = to / "report.html" if to.is_dir() else to
    path.write_text(_render(data), encoding="utf-8", newline="\n")


def _render(data: Mapping[str, Any]) -> str:
    environment = build_environment()
    script = environment.get_template("script.js.j2").render()
    tasks = data["metrics"]["tasks"]
    cohort = data["cohort"]
    states = Counter(check["state"] for check in data["checks"])
    return environment.get_template("report.html.j2").render(
        **data,
        palette=charts.PALETTE,
        script=script,
        check_states=format_states({state: states[state] for state in STATES}),
        # Nothing is fetched, and no script runs but this one, whatever a task's name holds.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=claims.write_sentences(data["detail"]["comparisons"], tasks),
        evaluation=describe_evaluation(len(cohort["folds"]), cohort["judged"]),
        split_counts=format_parts(cohort["splits"]),
        fold_counts=format_parts(cohort["folds"]),
        tables=_count_outcomes(data["lineage"]),
        flow_sentences=describe_flow(data["flow"]),
        gate_reasons={check["name"]: check["reason"] for check in data["gate"]["checks"]},
        quarantine_reasons=_count_reasons(data["lineage"]),
        departments=_group_by_department(tasks),
        comparison=_draw_comparison(tasks),
        curves=_draw_all_curves(data["detail"]["curves"], tasks),
        interaction=interaction.build_section(data["tim"], tasks) if data["tim"] else None,
    )


def _count_outcomes(lineage: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def _count_reasons(lineage: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def _group_by_department(tasks: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Tasks as the table shows them; counts are words by now, so that no hidden one can slip
    through.
    """
    departments: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        positives = NO_VALUE
        if task["problem"] == "binary":
            positives = format_part(task["positives"], task["n"])
        shown = {
            **task,
            "verdict": claims.get_verdict(task) if task["claimed"] else None,
            "trees_verdict": claims.get_verdict(task, "trees") if task["claimed"] else None,
            "why_not": task.get("reason") or "too few labels to judge by",
            "n": format_count(task["n"]),
            "positives": positives,
        }
        departments.setdefault(task["department"], []).append(shown)
    return departments


def _draw_all_curves(
    curves: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The tasks that have curves, in the order of the table, each with its chart."""
    label = "Curves of this task; the table below holds the thresholds that are used most."
    shown = []
    for task in tasks:
        of_task = curves.get(task["task"])
        if of_task is not None:
            shown.append(
                {
                    "thresholds": [],
                    **of_task,
                    "name": task["task"],
                    "metric": task["metric"],
                    "value": task["value"],
                    "low": task["low"],
                    "high": task["high"],
                    "plot": charts.to_svg(draw_curves(of_task), label),
                }
            )
    return shown


def _draw_comparison(tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The interval chart, in two columns that stand side by side where there is room."""
    plots = charts.draw_intervals(tasks, columns=2)
    if not plots:
        return None
    label = (
        "Model minus the same with single-task networks, with its interval, by department; the "
        "table above holds the same numbers."
    )
    drawn = [task for task in tasks if task["claimed"] and is_number(task["difference"])]
    return {
        "plots": [charts.to_svg(plot, label) for plot in plots],
        "left_out": len(tasks) - len(drawn),
    }
