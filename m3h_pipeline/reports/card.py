"""The model card: what a reviewer reads in MLflow before deciding on a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from m3h_pipeline.evaluation import claims
from m3h_pipeline.evaluation.method import describe_evaluation
from m3h_pipeline.evaluation.phenotypes import write_verdict
from m3h_pipeline.reports.page import ReportData
from m3h_pipeline.wording import (
    format_count,
    format_interval,
    format_metric,
    format_name,
    format_number,
    format_part,
    format_parts,
    format_share,
    join_words,
    pluralize,
)

_USE = (
    "Scores hospital stays at their prediction time, to be read beside clinical judgement by the "
    "people who treat the patient. Not for decisions without a person, not for patients unlike "
    "the cohort below, not for tasks that are not claimed."
)
_MODEL = (
    "Each task's prediction is the weighted mean of networks that learn all tasks jointly and of "
    "boosted trees, each task by itself; the weights are what labels bear out that neither was "
    "trained on. One network reads the whole record as vectors; where there are time series, a "
    "second one reads these step by step, and both count alike."
)


def format_model_card(data: ReportData | Mapping[str, Any]) -> str:
    """Markdown: intended use, the model, cohort, how it was judged, the gate, the other arms,
    subgroups, task interaction, limits, each task; whether there are phenotypes, where a task looks
    for them.

    Counts of fewer than 10 patients are hidden. What changes after the card was written, such as
    who is the champion, is said as of then.
    """
    cohort = data["cohort"]
    verdict = data["gate"]
    champion = f"version {verdict['champion']}" if verdict["champion"] else None
    splits = ", ".join(f"{name} {shown}" for name, shown in format_parts(cohort["splits"]).items())
    coverage = [
        f"| {format_name(name)} | {format_part(present, cohort['samples'])} | "
        f"{format_share(present, cohort['samples'])} |"
        for name, present in cohort["modalities"].items()
    ]
    checks = {check["name"]: check for check in verdict["checks"]}
    outcomes = [
        f"- {format_name(name)}: {_format_outcome(check)}; {check['reason']}"
        for name, check in checks.items()
    ]
    tasks = data["metrics"]["tasks"]
    evaluation = describe_evaluation(len(cohort["folds"]), cohort["judged"])
    sentences = claims.write_sentences(data["detail"]["comparisons"], tasks)
    return "\n".join(
        [
            f"# {data['model']['name']}, version {data['model']['version']}",
            f"\n## Intended use\n\n{_USE}",
            f"\n## Model\n\n{_describe_model(len(cohort['folds']))}",
            f"\n## Cohort\n\nSnapshot {data['snapshot']} of {data['source']}: "
            f"{format_count(cohort['samples'])} samples of {format_count(cohort['subjects'])} "
            f"patients (split: {splits}).",
            "\n| Modality | Samples that have it | Share |\n|---|---:|---:|",
            *coverage,
            f"\n## Evaluation\n\n{evaluation}",
            f"\n## Gate: {'passed' if verdict['passed'] else 'rejected'}, when this version was "
            "registered\n",
            *outcomes,
            "\n## Against single-task networks and trees\n",
            *(f"- {sentence}" for sentence in sentences),
            f"\n## Subgroups\n\n{_to_sentence(checks['no_subgroup_harmed']['reason'])}",
            *_format_phenotypes(data["detail"]["phenotypes"]),
            f"\n## Task interaction\n\n{_describe_interaction(data['tim'])}",
            "\n## Limits\n",
            *(f"- {limit}" for limit in data["limits"]),
            f"\n## Tasks\n\n{_explain_difference(champion)}\n",
            *_format_task_rows(tasks, verdict, champion),
        ]
    )


def _describe_model(n_folds: int) -> str:
    if n_folds < 2:
        return _MODEL
    return (
        f"{_MODEL} Of each there are {n_folds}, each trained without the patients of one fold; new "
        "patients get their mean. Clusters are the first network's."
    )


def _format_outcome(check: Mapping[str, Any]) -> str:
    if check["passed"]:
        return "passed"
    return "warning" if check.get("severity") == "warn" else "**failed**"


def _format_phenotypes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The verdict on each clustering task, with the numbers behind it; nothing without one."""
    lines = ["\n## Phenotypes\n"] if records else []
    for record in records:
        line = f"- {format_name(record['task'])}: {write_verdict(record)}"
        if "found" in record:
            nulls = record["nulls"]
            line += (
                f" Silhouette {format_number(record['silhouette'])}; of k-means "
                f"{format_number(record['kmeans'])}; of k-means where there are no clusters, 95th "
                f"percentile, {format_number(nulls['permuted']['high'])} (inputs permuted) and "
                f"{format_number(nulls['correlated']['high'])} (permuted, as correlated as they "
                f"are). Stability {format_number(record['stability'])}."
            )
        lines.append(line)
    return lines


def _explain_difference(champion: str | None) -> str:
    if champion is None:
        return "There was no champion to compare with. Intervals are 95%, over patients."
    return (
        f"Difference: this version minus the champion ({champion}) of that day on the same "
        "patients, with the gate's bounds: the lower ones hold for all tasks at once, and a task "
        "is shown to lose more than the margin where its upper one lies below it. Intervals are "
        "95%, over patients."
    )


def _format_task_rows(
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
        name = format_name(task["task"])
        metric = format_metric(task["metric"])
        value = _format_with_interval(task["value"], task["low"], task["high"])
        row = f"| {name} | {metric} | {value} | {format_count(task['n'])} |"
        if compared := against.get(task["task"]):
            difference = _format_with_interval(
                compared["value"] - compared["other"], compared["low"], compared["high"], sign=True
            )
            row += f" {format_number(compared['other'])} | {difference} |"
        elif champion:
            row += " not compared | |"
        rows.append(row)
    reasons: dict[str, list[str]] = {}
    for task in tasks:
        if not task["claimed"]:
            reasons.setdefault(task["reason"] or "too few labels to judge by", []).append(
                format_name(task["task"])
            )
    return rows + [
        f"\nNot claimed, {reason}: {join_words(names)}." for reason, names in reasons.items()
    ]


def _format_with_interval(
    value: float, low: float | None, high: float | None, *, sign: bool = False
) -> str:
    ends = format_interval(low, high, sign=sign)
    return format_number(value, sign=sign) + (f" ({ends})" if ends else "")


def _describe_interaction(tim: Mapping[str, Any] | None) -> str:
    """Three sentences: what was measured, the strongest help, the strongest harm that survive."""
    if not tim:
        return "It was not measured for this version."
    names = tim["tasks"]
    effects = sorted(
        (tim["gain"][i][j], i, j)
        for i in range(len(names))
        for j in range(len(names))
        if i != j and tim["evidence"][i][j] and tim["gain"][i][j] is not None
    )
    n_pairs = len(names) * (len(names) - 1)
    verb = "survives" if len(effects) < 2 else "survive"
    measured = (
        f"Of {n_pairs:,} ordered pairs of {pluralize(len(names), 'task')}, "
        f"{len(effects) or 'none'} {verb} a false discovery rate of {100 * tim['fdr']:g}% "
        f"({tim['method']})."
    )
    helps = "No help is shown."
    harms = "No harm is shown."
    if effects and effects[-1][0] > 0:
        helps = _describe_effect("The strongest help", names, effects[-1])
    if effects and effects[0][0] < 0:
        harms = _describe_effect("The strongest harm", names, effects[0])
    return f"{measured} {helps} {harms}"


def _describe_effect(what: str, names: Sequence[str], effect: tuple[float, int, int]) -> str:
    value, i, j = effect
    return (
        f"{what}: the skill of {format_name(names[i])} changes by "
        f"{format_number(value, sign=True)} with {format_name(names[j])}."
    )


def _to_sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
