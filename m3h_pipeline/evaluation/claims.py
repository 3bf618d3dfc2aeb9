"""What the comparison of the model with others comes to: verdicts, counts, means, and the
sentences that tell them.

The one place for these. metrics.json holds the differences task by task, detail.json their counts
and means (``comparisons``); page, model card, last screen, Dagster and MLflow take numbers and
words from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from m3h_pipeline.wording import (
    format_interval,
    format_metric,
    format_name,
    format_number,
    is_number,
    join_words,
    pluralize,
)

# What the shipped model is compared with: its name, and the field of metrics.json that holds the
# difference. The first has the same trees, so that the difference is what joint learning adds.
NAMES = {"single_task": "the same with single-task networks", "trees": "boosted trees alone"}
FIELDS = {"single_task": "difference", "trees": "trees_difference"}
VERDICTS = ("better", "worse", "unclear", "same")
_MOST_NAMED = 6


def get_verdict(task: Mapping[str, Any], against: str = "single_task") -> str | None:
    """What the interval of a difference says of the shipped model; None where there is no interval.

    "same" is a difference of exactly 0 in every resample: both rank the patients alike.

    >>> get_verdict({"difference_low": 0.01, "difference_high": 0.03})
    'better'
    """
    low = task[f"{FIELDS[against]}_low"]
    high = task[f"{FIELDS[against]}_high"]
    if not (is_number(low) and is_number(high)):
        return None
    if low == 0 and high == 0:
        return "same"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "unclear"


def get_metric_family(metric: str) -> str:
    """The metric under whose name differences are averaged: all kinds of AUROC are one.

    >>> get_metric_family("macro AUROC"), get_metric_family("R2")
    ('AUROC', 'R2')
    """
    return "AUROC" if "AUROC" in metric else metric


def summarize_comparison(
    tasks: Sequence[Mapping[str, Any]], against: str, means: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How many claimed tasks have each verdict, and the mean differences.

    ``tasks``: records of metrics.json; ``means``: for each metric {"metric", "tasks", "value",
    "low", "high"}.
    """
    counts = Counter(get_verdict(task, against) for task in tasks if task["claimed"])
    return {
        **{name: counts[name] for name in VERDICTS},
        "not_compared": counts[None],
        "means": list(means),
    }


def count_compared(record: Mapping[str, Any]) -> int:
    """The number of tasks that have a verdict."""
    return sum(record[name] for name in VERDICTS)


def write_sentences(
    comparisons: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]
) -> list[str]:
    """How the shipped model did against the same with single-task networks and against trees, for a
    reader who sees nothing else.
    """
    claimed = [task for task in tasks if task["claimed"]]
    has = "has" if len(claimed) == 1 else "have"
    first = f"Of {pluralize(len(tasks), 'task')}, {len(claimed)} {has} enough labels for a claim."
    single_task = comparisons["single_task"]
    if not count_compared(single_task):
        return [first, "What joint learning adds could not be measured."]
    return [
        first,
        f"What joint learning adds: against {NAMES['single_task']}, the model was better on "
        f"{single_task['better']}, worse on {single_task['worse']}, and showed no clear difference "
        f"on {single_task['unclear']}{_describe_rest(single_task)}.",
        *_describe_means(single_task, "single_task", claimed),
        *_describe_trees(comparisons["trees"], claimed),
    ]


def _describe_trees(record: Mapping[str, Any], claimed: Sequence[Mapping[str, Any]]) -> list[str]:
    if not count_compared(record):
        return []
    counts = (
        f"Against {NAMES['trees']}, each task by itself, the model was better on "
        f"{record['better']}, worse on {record['worse']}, and showed no clear difference on "
        f"{record['unclear']}{_describe_rest(record)}."
    )
    behind = [task for task in claimed if get_verdict(task, "trees") == "worse"]
    behind = sorted(behind, key=lambda task: task["trees_difference"])
    named = [
        f"{format_name(task['task'])} ({format_number(task['trees_difference'], sign=True)})"
        for task in behind[:_MOST_NAMED]
    ]
    if len(behind) > _MOST_NAMED:
        named.append(f"{len(behind) - _MOST_NAMED} more")
    where = [f"Trees are better on {join_words(named)}."] if behind else []
    return [counts, *_describe_means(record, "trees", claimed), *where]


def _describe_rest(record: Mapping[str, Any]) -> str:
    """What is neither better, worse nor unclear."""
    text = ""
    if record["same"]:
        text += f"; on {record['same']} both scored the same in every resample"
    if record["not_compared"]:
        text += f"; {record['not_compared']} could not be compared"
    return text


def _describe_means(
    record: Mapping[str, Any], against: str, claimed: Sequence[Mapping[str, Any]]
) -> list[str]:
    averages = []
    for mean in record["means"]:
        value = (
            f"{format_number(mean['value'], sign=True)} "
            f"({format_interval(mean['low'], mean['high'], sign=True)})"
        )
        where = f"over {pluralize(mean['tasks'], 'task')}"
        if mean["tasks"] == 1:
            where = f"on {_find_only_task(claimed, against, mean['metric'])}"
        averages.append(f"{value} {where} measured by {format_metric(mean['metric'])}")
    if not averages:
        return []
    return [f"Model minus {NAMES[against]}, on average: {join_words(averages)}."]


def _find_only_task(claimed: Sequence[Mapping[str, Any]], against: str, metric: str) -> str:
    """The name of the one task that is measured by a metric and was compared."""
    return next(
        format_name(task["task"])
        for task in claimed
        if get_metric_family(task["metric"]) == metric and is_number(task[FIELDS[against]])
    )


def format_comparison(record: Mapping[str, Any]) -> str:
    """One comparison in one line.

    >>> mean = {"metric": "R2", "tasks": 2, "value": 0.01, "low": 0.002, "high": 0.02}
    >>> counts = {"better": 1, "worse": 0, "unclear": 1, "same": 0, "not_compared": 3}
    >>> for part in format_comparison({**counts, "means": [mean]}).split("; "):
    ...     print(part)
    better on 1, worse on 0 of 2 tasks by 95% intervals
    mean difference R² +0.010 (+0.002 to +0.020)
    """
    if not count_compared(record):
        return "nothing to compare"
    means = [
        f"{format_metric(mean['metric'])} {format_number(mean['value'], sign=True)} "
        f"({format_interval(mean['low'], mean['high'], sign=True)})"
        for mean in record["means"]
    ]
    counts = (
        f"better on {record['better']}, worse on {record['worse']} of "
        f"{pluralize(count_compared(record), 'task')} by 95% intervals"
    )
    return counts + (f"; mean difference {', '.join(means)}" if means else "")


def collect_facts(comparisons: Mapping[str, Any]) -> dict[str, Any]:
    """What Dagster and the last screen show of the comparisons, by title."""
    shown: dict[str, Any] = {}
    for against, record in comparisons.items():
        shown[f"model against {NAMES[against]}"] = format_comparison(record)
        shown[f"better than {NAMES[against]} (interval above 0)"] = record["better"]
        shown[f"worse than {NAMES[against]} (interval below 0)"] = record["worse"]
    return shown


def to_metrics(
    tasks: Sequence[Mapping[str, Any]], comparisons: Mapping[str, Any]
) -> dict[str, float]:
    """Every score, difference and count under the name that it has in MLflow.

    ``<task>.<metric>`` with its interval and n; ``.minus_single_task`` and ``.minus_trees`` with
    theirs; over all tasks ``model_minus_<arm>.<metric>`` and ``model_minus_<arm>.tasks_better`` and
    ``.tasks_worse``.
    """
    values: dict[str, float | None] = {}
    for task in tasks:
        if task["value"] is None:
            continue
        name = f"{task['task']}.{task['metric']}"
        values |= {name: task["value"], f"{name}.low": task["low"], f"{name}.high": task["high"]}
        values[f"{task['task']}.n"] = task["n"]
        for against, field in FIELDS.items():
            values[f"{name}.minus_{against}"] = task[field]
            values[f"{name}.minus_{against}.low"] = task[f"{field}_low"]
            values[f"{name}.minus_{against}.high"] = task[f"{field}_high"]
    for against, record in comparisons.items():
        if not count_compared(record):
            continue
        name = f"model_minus_{against}"
        values[f"{name}.tasks_better"] = record["better"]
        values[f"{name}.tasks_worse"] = record["worse"]
        for mean in record["means"]:
            values[f"{name}.{mean['metric']}"] = mean["value"]
            values[f"{name}.{mean['metric']}.low"] = mean["low"]
            values[f"{name}.{mean['metric']}.high"] = mean["high"]
    return {name: value for name, value in values.items() if value is not None}
