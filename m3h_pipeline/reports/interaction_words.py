"""What task interaction found, in sentences.

Effects are tested by skill and told by the task's metric, so that both are looked at: an effect
that survives may leave the metric where it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from m3h_pipeline.evaluation.claims import get_metric_family
from m3h_pipeline.wording import (
    format_interval,
    format_metric,
    format_name,
    format_number,
    is_number,
    join_words,
    pluralize,
)

_MOST_NAMES = 6
# Of a metric that counts pairs of patients, so many of them.
_PAIRS = 1000


def describe_joint_learning(
    tasks: Sequence[Mapping[str, Any]], mean: Mapping[str, Any], fdr: float
) -> str:
    """How many tasks gain and lose in the model of all tasks, and which; ``mean``: the mean change
    of skill.
    """
    judged = [task for task in tasks if is_number(task["gain"])]
    if not any(task["tested"] for task in judged):
        return (
            "A single network of each tells nothing of training's own luck, so it could not be "
            "tested what the network of all tasks does for each."
        )
    gains = [format_name(task["task"]) for task in judged if task["verdict"] == "gains"]
    losses = [format_name(task["task"]) for task in judged if task["verdict"] == "loses"]
    others = len(judged) - len(gains) - len(losses)
    parts = [
        f"{pluralize(len(gains), 'task')} {_agree(len(gains), 'gain')}{_list_names(gains)}",
        f"{len(losses)} {_agree(len(losses), 'lose')}{_list_names(losses)}",
        f"for {'the other ' if gains or losses else ''}{others} no difference is shown",
    ]
    return (
        f"In the network of all {len(tasks)} tasks, against a network of each task alone, "
        f"{join_words(parts if others else parts[:2])} (false discovery rate {100 * fdr:g}%). "
        f"On average over the tasks, skill changes by {format_number(mean['value'], sign=True)} "
        f"({format_interval(mean['low'], mean['high'], sign=True)})."
    )


def _agree(count: int, verb: str) -> str:
    return f"{verb}s" if count == 1 else verb


def _list_names(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = len(names) - _MOST_NAMES
    shown = [*names[:_MOST_NAMES], f"{more} more"] if more > 0 else list(names)
    return f" ({join_words(shown)})"


def describe_no_effect(pairs: Sequence[Mapping[str, Any]], fdr: float) -> str:
    """One sentence where no effect survives: how many were tested, and what that can't rule out."""
    tested = [pair for pair in pairs if pair["tested"]]
    if not tested:
        return (
            "A single model of each pair tells nothing of training's own luck, so no effect could "
            "be tested."
        )
    return (
        f"None of {pluralize(len(tested), 'tested effect')} survives a false discovery rate of "
        f"{100 * fdr:g}%{_describe_reach(tested)}."
    )


def _describe_reach(tested: Sequence[Mapping[str, Any]]) -> str:
    """How large effects could be by their intervals, half of them and the least certain one."""
    reaches: dict[str, list[float]] = {}
    for pair in tested:
        if is_number(pair["low"]) and is_number(pair["high"]):
            reach = max(abs(pair["low"]), abs(pair["high"]))
            reaches.setdefault(get_metric_family(pair["metric"]), []).append(reach)
    if not reaches:
        return ""
    half = [
        f"{format_number(statistics.median(of_metric))} in {format_metric(name)}"
        for name, of_metric in reaches.items()
    ]
    # The metrics follow in the same order.
    most = [format_number(max(of_metric)) for of_metric in reaches.values()]
    return (
        f"; by their 95% intervals half of them could still be as large as {join_words(half)}, the "
        f"least certain {join_words(most)}"
    )


def describe_effect(pair: Mapping[str, Any], *, names_task: bool = True) -> str:
    """One effect that survives; ``names_task``: also whom it helps or harms."""
    other = format_name(pair["other"])
    metric = format_metric(pair["metric"])
    subject = f"Learning {other} too" if names_task else other
    of_task = f" of {format_name(pair['task'])}" if names_task else ""
    value = pair["value"]
    if pair["is_in_metric"]:
        ends = sorted((abs(pair["low"]), abs(pair["high"])))
        means = _describe_for_patients(pair)
        size = f"{format_number(abs(value))} ({format_interval(*ends)})"
        return (
            f"{subject} {'raises' if value > 0 else 'lowers'} {metric}{of_task} by {size}"
            f"{': ' if means else ''}{means}."
        )
    ends = format_interval(pair["low"], pair["high"], sign=True)
    size = f"{format_number(value, sign=True)}{f' ({ends})' if ends else ''}"
    predictions = "predictions" if pair["metric"] == "R2" else "probabilities"
    nearer = "closer to" if pair["gain"] > 0 else "further from"
    skill = format_number(pair["gain"], sign=True)
    return (
        f"{subject} brings the {predictions}{of_task} {nearer} what happened (skill {skill}), but "
        f"that {metric} changes the same way is not shown: {size}."
    )


def _describe_for_patients(pair: Mapping[str, Any]) -> str:
    """What a change of the metric is in patients; empty where it can't be said."""
    value = pair["value"]
    more = "more" if value > 0 else "fewer"
    if get_metric_family(pair["metric"]) == "AUROC":
        count = round(_PAIRS * abs(value))
        about = f"about {count}" if count else "less than 1"
        return f"{about} {more} of {_PAIRS:,} pairs of patients ranked rightly"
    if pair["metric"] == "R2":
        points = f"{100 * abs(value):.2g} percentage points"
        return f"{points} {'more' if value > 0 else 'less'} of the variance explained"
    return ""


def explain_pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    """What a pair of patients is, where an effect that survives is told in them; else empty."""
    metrics = {pair["metric"] for pair in pairs if pair["evidence"] and pair["is_in_metric"]}
    if not any(get_metric_family(metric) == "AUROC" for metric in metrics):
        return ""
    several = "; of several classes, the mean over them" if "macro AUROC" in metrics else ""
    return (
        "A pair is one patient with the outcome and one without; it is ranked rightly where the "
        f"one with it is given the higher risk{several}."
    )


def is_shown_in_metric(low: float | None, high: float | None, gain: float) -> bool:
    """Whether the interval of the metric's change lies on the side of 0 where the skill went.

    >>> is_shown_in_metric(0.002, 0.018, 0.03), is_shown_in_metric(-0.002, 0.02, 0.03)
    (True, False)
    """
    if low is None or high is None:
        return False
    return low > 0 if gain > 0 else high < 0
