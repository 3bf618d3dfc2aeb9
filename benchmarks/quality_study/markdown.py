"""The numbers of the quality benchmark as tables of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quality_study.results import COMPARED
from quality_study.statistics import LEAST_SKILL


def show(part: str, record: Mapping[str, Any]) -> str:
    """The markdown of one part."""
    sections = [f"## {part}", _means_table(record)]
    for first in COMPARED:
        if f"{first} minus" in record:
            differences = _skill_table if part == "scarce" else _difference_table
            sections.append(differences(first, record))
    return "\n\n".join([*sections, _task_table(record), *_precision_table(record)])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_number(
    estimate: Sequence[float] | None, sign: str = "", digits: int = 3, unit: str = ""
) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{part:{sign}.{digits}f}".replace("0.", ".", 1) for part in estimate)
    return f"{value}{unit} [{low}, {high}]"


def _percent(estimate: Sequence[float] | None) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{100 * part:+.1f}" for part in estimate)
    return f"{value}% [{low}, {high}]"


def _means_table(record: Mapping[str, Any]) -> str:
    groups = list(next(iter(record["means"].values())))
    rows = []
    for arm, means in record["means"].items():
        numbers = [format_number(means[group]) for group in groups]
        rows.append([arm, *numbers, f"{record['cpu seconds'][arm]:.0f}"])
    return table(["arm", *(f"mean {group}" for group in groups), "CPU seconds"], rows)


def _difference_table(first: str, record: Mapping[str, Any]) -> str:
    header = [f"{first} minus", "of", "difference", "of the headroom", "relative skill"]
    header += ["better / worse", "the same, FDR 5%", "tasks"]
    rows = [
        [
            arm,
            group,
            format_number(change["difference"], "+", 4),
            _percent(change["headroom"]),
            _percent(change["relative"]),
            f"{change['better']} / {change['worse']}",
            f"{change['better_fdr']} / {change['worse_fdr']}",
            str(change["tasks"]),
        ]
        for arm, groups in record[f"{first} minus"].items()
        for group, change in groups.items()
        if group != "skill"
    ]
    return table(header, rows)


def _skill_table(first: str, record: Mapping[str, Any]) -> str:
    header = [
        f"{first} against",
        "difference of mean skill",
        "ratio of mean skills",
        "better / worse",
        "the same, FDR 5%",
    ]
    rows = []
    for arm, change in record[f"{first} minus"].items():
        skill = change["skill"]
        counts = change["all"]
        rows.append(
            [
                arm,
                format_number(skill["difference"], "+"),
                format_number(skill["ratio"]),
                f"{counts['better']} / {counts['worse']}",
                f"{counts['better_fdr']} / {counts['worse_fdr']}",
            ]
        )
    return table(header, rows)


def _task_table(record: Mapping[str, Any]) -> str:
    arms = record["tasks"]
    versus = record.get("joint minus, by task", {})
    shown = [arm for arm in ("single", "lightgbm", "trees") if arm in versus]
    header = ["task", *arms, *(f"joint minus {arm}" for arm in shown)]
    names = next(iter(arms.values()))
    rows = []
    for name in names:
        values = [f"{of_arm[name][0]:.3f}" for of_arm in arms.values()]
        differences = [format_number(versus[arm][name], "+") for arm in shown]
        rows.append([name, *values, *differences])
    return table(header, rows)


def _format_each(by_arm: Mapping[str, Mapping[str, float]], name: str) -> list[str]:
    return [f"{of_arm[name]:.3f}" for of_arm in by_arm.values()]


def _precision_table(record: Mapping[str, Any]) -> list[str]:
    by_arm = record["average precision"]
    names = list(next(iter(by_arm.values())))
    if not names:
        return []
    rows = [[name, *_format_each(by_arm, name)] for name in names]
    return ["Average precision (AUPRC) of binary tasks:", table(["task", *by_arm], rows)]


NOTES = f"""Scores are means over splits on the test rows: AUROC (of several classes, the mean over
these) or R2; skill is 2 AUROC - 1 or R2. In brackets are 95% intervals over resamples of
the patients of all test rows and of the splits, the same for every arm; splits share
training rows, so they are approximate. Relative changes are means over the tasks in
which the single-task model's skill is beyond {LEAST_SKILL}. Better and worse count
tasks whose interval excludes zero. CPU seconds are those of the fits when they were
made."""
