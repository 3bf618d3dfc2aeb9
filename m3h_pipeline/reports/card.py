"""The model card: what a reviewer reads in MLflow before deciding on a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from m3h_pipeline.reports import words
from m3h_pipeline.reports.page import ReportData

_USE = (
    "Scores hospital stays at their prediction time, to be read beside clinical judgement by the people who treat the "
    "patient. Not for decisions without a person, not for patients unlike the cohort below, not for tasks that the "
    "table does not call claimed."
)


def model_card(data: ReportData | Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """Markdown: intended use, cohort, modality coverage, the gate, each task, subgroups, task interaction, limits.

    ``verdict``: what m3h_pipeline.gate.judge returned. Counts of fewer than 10 patients are hidden.
    """
    cohort = data["cohort"]
    champion = f"version {verdict['champion']}" if verdict["champion"] else None
    splits = ", ".join(f"{name} {shown}" for name, shown in words.parts(cohort["splits"]).items())
    coverage = [
        f"| {words.name(name)} | {words.part(present, cohort['samples'])} | {words.share(present, cohort['samples'])} |"
        for name, present in cohort["modalities"].items()
    ]
    checks = {check["name"]: check for check in verdict["checks"]}
    return "\n".join(
        [
            f"# {data['model']['name']}, version {data['model']['version']}",
            f"\n## Intended use\n\n{_USE}",
            f"\n## Cohort\n\nSnapshot {data['snapshot']} of {data['source']}: {words.count(cohort['samples'])} samples "
            f"of {words.count(cohort['subjects'])} patients ({splits}).",
            "\n| Modality | Samples that have it | Share |\n|---|---:|---:|",
            *coverage,
            f"\n## Gate: {'passed' if verdict['passed'] else 'rejected'}\n",
            *(f"- {'passed' if c['passed'] else '**failed**'}, {name.replace('_', ' ')}: {c['reason']}"
              for name, c in checks.items()),
            f"\n## Tasks, on the test split\n\n{_difference_words(champion)}\n",
            *_task_rows(data["metrics"]["tasks"], verdict, champion),
            f"\n## Subgroups\n\n{_sentence(checks['no_subgroup_harmed']['reason'])}",
            f"\n## Task interaction\n\n{_interaction(data['tim'])}",
            "\n## Limits\n",
            *(f"- {limit}" for limit in data["limits"]),
        ]
    )  # fmt: skip


def _difference_words(champion: str | None) -> str:
    if champion is None:
        return "There is no champion to compare with. Intervals are 95%, over patients."
    return (
        f"Difference: this version minus the champion ({champion}) on the same patients, with bounds that hold for all "
        "tasks at once. Intervals are 95%, over patients."
    )


def _task_rows(tasks: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], champion: str | None) -> list[str]:
    against = {compared["task"]: compared for compared in verdict["tasks"]}
    rows = [
        "| Task | Metric | Value | Interval | n | Champion | Difference | Bounds |",
        "|---|---|---:|---|---:|---:|---:|---|",
    ]
    for task in tasks:
        name, metric, n = words.name(task["task"]), words.metric(task["metric"]), words.count(task["n"])
        if not task["claimed"]:
            rows.append(f"| {name} | {metric} | not claimed: {task['reason']} | | {n} | | | |")
            continue
        cells = [words.number(task["value"]), words.interval(task["low"], task["high"]), n]
        if compared := against.get(task["task"]):
            cells += [
                words.number(compared["other"]),
                words.number(compared["value"] - compared["other"], sign=True),
                words.interval(compared["low"], compared["high"], sign=True),
            ]
        else:
            cells += ["not compared" if champion else words.NOTHING, "", ""]
        rows.append(f"| {name} | {metric} | {' | '.join(cells)} |")
    return rows


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
    measured = f"Of {len(names) * (len(names) - 1)} ordered pairs of {words.plural(len(names), 'task')}, "
    measured += f"{len(effects)} effects survive a false discovery rate of {tim['fdr']} ({tim['method']})."
    helps = _effect("The strongest help", names, effects[-1]) if effects and effects[-1][0] > 0 else "No help is shown."
    harms = _effect("The strongest harm", names, effects[0]) if effects and effects[0][0] < 0 else "No harm is shown."
    return f"{measured} {helps} {harms}"


def _effect(what: str, names: Sequence[str], effect: tuple[float, int, int]) -> str:
    value, i, j = effect
    return f"{what}: {words.name(names[i])} changes by {words.number(value, sign=True)} with {words.name(names[j])}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
