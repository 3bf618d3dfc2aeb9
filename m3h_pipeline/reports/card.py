"""The model card: what a reviewer reads in MLflow before deciding on a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from m3h_pipeline import wording
from m3h_pipeline.evaluation import claims
from m3h_pipeline.reports.page import ReportData

_USE = (
    "Scores hospital stays at their prediction time, to be read beside clinical judgement by the "
    "people who treat the patient. Not for decisions without a person, not for patients unlike "
    "the cohort below, not for tasks that are not claimed."
)


def model_card(data: ReportData | Mapping[str, Any]) -> str:
    """Markdown: intended use, cohort, the gate, the other arms, subgroups, task interaction,
    limits, each task.

    Counts of fewer than 10 patients are hidden. What changes after the card was written, such as
    who is the champion, is said as of then.
    """
    cohort = data["cohort"]
    verdict = data["gate"]
    champion = f"version {verdict['champion']}" if verdict["champion"] else None
    splits = ", ".join(
        f"{name} {shown}" for name, shown in wording.format_parts(cohort["splits"]).items()
    )
    coverage = [
        f"| {wording.format_name(name)} | {wording.format_part(present, cohort['samples'])} | "
        f"{wording.format_share(present, cohort['samples'])} |"
        for name, present in cohort["modalities"].items()
    ]
    checks = {check["name"]: check for check in verdict["checks"]}
    tasks = data["metrics"]["tasks"]
    return "\n".join(
        [
            f"# {data['model']['name']}, version {data['model']['version']}",
            f"\n## Intended use\n\n{_USE}",
            f"\n## Cohort\n\nSnapshot {data['snapshot']} of {data['source']}: "
            f"{wording.format_count(cohort['samples'])} samples of {wording.format_count(cohort['subjects'])} "
            f"patients ({splits}).",
            "\n| Modality | Samples that have it | Share |\n|---|---:|---:|",
            *coverage,
            f"\n## Gate: {'passed' if verdict['passed'] else 'rejected'}, when this version was "
            "registered\n",
            *(f"- {wording.format_name(name)}: {_outcome(check)}; {check['reason']}" for name, check in checks.items()),
            "\n## Against single-task models and trees\n",
            *(f"- {sentence}" for sentence in claims.write_sentences(data["detail"]["comparisons"], tasks)),
            f"\n## Subgroups\n\n{_sentence(checks['no_subgroup_harmed']['reason'])}",
            f"\n## Task interaction\n\n{_interaction(data['tim'])}",
            "\n## Limits\n",
            *(f"- {limit}" for limit in data["limits"]),
            f"\n## Tasks, on the test split\n\n{_difference_words(champion)}\n",
            *_task_rows(tasks, verdict, champion),
        ]
    )  # fmt: skip


def _outcome(check: Mapping[str, Any]) -> str:
    if check["passed"]:
        return "passed"
    return "warning" if check.get("severity") == "warn" else "**failed**"


def _difference_words(champion: str | None) -> str:
    if champion is None:
        return "There was no champion to compare with. Intervals are 95%, over patients."
    return (
        f"Difference: this version minus the champion ({champion}) of that day on the same "
        "patients, with the gate's bounds: the lower ones hold for all tasks at once, and a task "
        "is shown to lose more than the margin where its upper one lies below it. Intervals are "
        "95%, over patients."
    )


def _task_rows(
    tasks: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], champion: str | None
) -> list[str]:
    """The claimed tasks, with the champion's columns where there is one; then the others, by why
    they are not.
    """
    against = {compared["task"]: compared for compared in verdict["tasks"]}
    claimed = [task for task in tasks if task["claimed"]]
    rows = [] if not claimed else ["| Task | Metric | Value | n |", "|---|---|---|---:|"]
    if rows and champion:
        rows = [f"{rows[0]} Champion | Difference |", f"{rows[1]}---:|---|"]
    for task in claimed:
        name = wording.format_name(task["task"])
        metric = wording.format_metric(task["metric"])
        n = wording.format_count(task["n"])
        row = (
            f"| {name} | {metric} | {_with_interval(task['value'], task['low'], task['high'])} | "
            f"{n} |"
        )
        if compared := against.get(task["task"]):
            difference = _with_interval(
                compared["value"] - compared["other"], compared["low"], compared["high"], sign=True
            )
            row += f" {wording.format_number(compared['other'])} | {difference} |"
        elif champion:
            row += " not compared | |"
        rows.append(row)
    reasons: dict[str, list[str]] = {}
    for task in tasks:
        if not task["claimed"]:
            reasons.setdefault(task["reason"] or "too few test labels", []).append(
                wording.format_name(task["task"])
            )
    return rows + [
        f"\nNot claimed, {reason}: {wording.join_words(names)}."
        for reason, names in reasons.items()
    ]


def _with_interval(
    value: float, low: float | None, high: float | None, *, sign: bool = False
) -> str:
    ends = wording.format_interval(low, high, sign=sign)
    return wording.format_number(value, sign=sign) + (f" ({ends})" if ends else "")


def _interaction(tim: Mapping[str, Any] | None) -> str:
    """Three sentences: what was measured, the strongest help, the strongest harm that survive."""
    if not tim:
        return "It was not measured for this version."
    names = tim["tasks"]
    effects = sorted(
        (tim["matrix"][i][j], i, j)
        for i in range(len(names))
        for j in range(len(names))
        if i != j and tim["evidence"][i][j] and tim["matrix"][i][j] is not None
    )
    measured = (
        f"Of {len(names) * (len(names) - 1):,} ordered pairs of "
        f"{wording.pluralize(len(names), 'task')}, "
    )
    measured += (
        f"{len(effects) or 'none'} {'survives' if len(effects) < 2 else 'survive'} a false "
        "discovery rate of "
    )
    measured += f"{100 * tim['fdr']:g}% ({tim['method']})."
    helps = (
        _effect("The strongest help", names, effects[-1])
        if effects and effects[-1][0] > 0
        else "No help is shown."
    )
    harms = (
        _effect("The strongest harm", names, effects[0])
        if effects and effects[0][0] < 0
        else "No harm is shown."
    )
    return f"{measured} {helps} {harms}"


def _effect(what: str, names: Sequence[str], effect: tuple[float, int, int]) -> str:
    value, i, j = effect
    return (
        f"{what}: {wording.format_name(names[i])} changes by {wording.format_number(value, sign=True)} with "
        f"{wording.format_name(names[j])}."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
