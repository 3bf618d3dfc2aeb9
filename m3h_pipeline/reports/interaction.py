"""Task interaction on the page: what all tasks do for each, the pairs, and what helps each task.

``tim`` is the content of tim.json: T tasks, rows are helped or harmed, columns are learned too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from m3h_pipeline.reports import charts
from m3h_pipeline.reports.grouping import describe_grouping
from m3h_pipeline.reports.interaction_charts import (
    FEW_TASKS,
    LEVELS,
    MOST_EDGES,
    build_legend,
    compute_shade_step,
    draw_graph,
    draw_heat_map,
)
from m3h_pipeline.reports.interaction_order import arrange_tasks
from m3h_pipeline.reports.interaction_words import (
    describe_effect,
    describe_joint_learning,
    describe_no_effect,
    explain_pairs,
    is_shown_in_metric,
)
from m3h_pipeline.wording import format_name, is_number

_PHONE = 358 - 152  # Pixels beside the labels.
_MOST_GUESSES = 3
_MOST_SOURCES = 3
# More sentences than these are not read; each task's own are a choice away.
_MOST_SENTENCES = 6
# What the page shows as tim.json holds it.
_COPIED = ("method", "network", "models", "folds", "seeds", "fdr", "groups")


def build_section(tim: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All that the page's section shows; ``tasks``: records of metrics.json."""
    records = {task["task"]: task for task in tasks}
    metrics = {name: task["metric"] for name, task in records.items()}
    tim = arrange_tasks(tim, {name: task["department"] for name, task in records.items()})
    size = len(tim["tasks"])
    pairs = [_describe_pair(tim, i, j, metrics) for i in range(size) for j in range(size) if i != j]
    of_tasks = [_describe_task(tim, i, metrics, pairs) for i in range(size)]
    of_tasks.sort(key=_rank_by_verdict)
    effects = sorted((pair for pair in pairs if pair["evidence"]), key=_rank_by_gain)
    step = compute_shade_step(tim)
    section = {name: tim[name] for name in _COPIED}
    return section | {
        "size": size,
        "joint_sentence": describe_joint_learning(
            of_tasks, tim["joint_learning"]["mean"], tim["fdr"]
        ),
        "no_effect": describe_no_effect(pairs, tim["fdr"]),
        "sentences": [describe_effect(pair) for pair in effects[:_MOST_SENTENCES]],
        "about_pairs": explain_pairs(effects),
        "plots": _draw_heat_maps(tim, metrics),
        "shade": f"{step:g}",
        "beyond": f"{step * (LEVELS - 1):g}",
        "legend": build_legend(step),
        "graph": _draw_graph(tim, metrics),
        "edges": len(effects),
        "drawn_edges": min(len(effects), MOST_EDGES),
        "tested": sum(pair["tested"] for pair in pairs),
        "stopped": sum(pair["stopped"] for pair in pairs),
        "pairs": pairs,
        "tasks": of_tasks,
        "helped": sorted(of_tasks, key=_rank_by_largest_effect),
        "grouping": describe_grouping(tim["groups"]) if tim["groups"] else [],
        "leave_one_out": _describe_left_out(tim["leave_one_out"], tim["tasks"], metrics),
        "attention": _describe_attention(tim["attention"]),
    }


def _draw_heat_maps(tim: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, str]:
    """Where a picture is shown (on a wide or a narrow screen, or always) -> the picture."""
    size = len(tim["tasks"])
    drawn: dict[str, dict[str, Any]] = {"always": {"cell": 14, "numbers": False}}
    if size <= FEW_TASKS:
        drawn = {
            "wide": {"cell": 50, "numbers": True},
            "narrow": {"cell": min(30, _PHONE // size), "numbers": False},
        }
    label = "Heat map of task interaction; the table of all pairs holds the same numbers."
    return {
        shape: charts.to_svg(draw_heat_map(tim, metrics, **options), label)
        for shape, options in drawn.items()
    }


def _draw_graph(tim: Mapping[str, Any], metrics: Mapping[str, str]) -> str | None:
    graph = draw_graph(tim, metrics)
    if graph is None:
        return None
    return charts.to_svg(graph, "Effects that survive, as arrows; the tables hold the same.")


def _describe_pair(
    tim: Mapping[str, Any], i: int, j: int, metrics: Mapping[str, str]
) -> dict[str, Any]:
    """TIM(j -> i) as the tables and the sentences show it."""
    value = tim["matrix"][i][j]
    single = tim["single"][i]
    is_stopped = bool(tim["stopped"][i][j])
    pair = None
    # What was stopped was measured in one fold, and alone a task's score is that of all.
    if is_number(value) and is_number(single) and tim["method"] == "pairwise" and not is_stopped:
        pair = single + value
    gain = tim["gain"][i][j]
    ends = (tim["low"][i][j], tim["high"][i][j])
    evidence = bool(tim["evidence"][i][j])
    return {
        "task": tim["tasks"][i],
        "other": tim["tasks"][j],
        "metric": metrics.get(tim["tasks"][i], "score"),
        "value": value,
        "low": ends[0],
        "high": ends[1],
        "gain": gain,
        "single": single,
        "pair": pair,
        "evidence": evidence,
        "is_in_metric": evidence and is_shown_in_metric(*ends, gain),
        "tested": is_number(tim["q"][i][j]),
        "stopped": is_stopped,
    }


def _describe_task(
    tim: Mapping[str, Any], i: int, metrics: Mapping[str, str], pairs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One task: what the model of all tasks does for it, its effects that survive as sentences, and
    the largest helpers whatever they are worth.
    """
    name = tim["tasks"][i]
    joint = tim["joint_learning"]
    gain = joint["gain"][i]
    verdict = None
    if is_number(gain):
        verdict = "no difference shown" if is_number(joint["q"][i]) else "not tested"
        if joint["evidence"][i]:
            verdict = "gains" if gain > 0 else "loses"
    own = [pair for pair in pairs if pair["task"] == name and is_number(pair["value"])]
    effects = sorted((pair for pair in own if pair["evidence"]), key=_rank_by_gain)
    # The numbers of what was stopped come from few models: the largest are luck.
    guesses = [
        pair for pair in own if pair["value"] > 0 and not pair["evidence"] and not pair["stopped"]
    ]
    guesses.sort(key=lambda pair: -pair["value"])
    return {
        "task": name,
        "metric": metrics.get(name, "score"),
        "n": tim["n"][i],
        "single": joint["single"][i],
        "joint": joint["joint"][i],
        "change": joint["change"][i],
        "low": joint["low"][i],
        "high": joint["high"][i],
        "gain": gain,
        "tested": is_number(joint["q"][i]),
        "verdict": verdict,
        "effects": [describe_effect(pair, names_task=False) for pair in effects],
        "largest": max((abs(pair["gain"]) for pair in effects), default=0.0),
        "guesses": guesses[:_MOST_GUESSES],
    }


def _rank_by_gain(pair: Mapping[str, Any]) -> float:
    """The largest first, by skill: it means the same for every task."""
    return -abs(pair["gain"])


def _rank_by_verdict(task: Mapping[str, Any]) -> tuple[int, float]:
    """Gains, losses, the rest, and who is not judged; the largest change of skill first."""
    verdicts = ("gains", "loses", "no difference shown", "not tested", None)
    return verdicts.index(task["verdict"]), -abs(task["gain"] or 0.0)


def _rank_by_largest_effect(task: Mapping[str, Any]) -> tuple[float, str]:
    return (-task["largest"], format_name(task["task"]))


def _describe_left_out(
    left_out: Mapping[str, Any] | None, tasks: Sequence[str], metrics: Mapping[str, str]
) -> dict[str, Any] | None:
    """For each task left out, how others change without it where that survives; None where it was
    not measured.
    """
    if not left_out:
        return None
    losses = []
    for at, other in enumerate(left_out["tasks"]):
        cells: list[dict[str, Any]] = [
            {
                "task": task,
                "metric": metrics.get(task, "score"),
                "value": -left_out["matrix"][i][at],
                "low": -left_out["high"][i][at],
                "high": -left_out["low"][i][at],
                "is_in_metric": left_out["low"][i][at] * left_out["high"][i][at] > 0,
            }
            for i, task in enumerate(tasks)
            if left_out["evidence"][i][at]
        ]
        cells.sort(key=lambda cell: -abs(cell["value"]))
        losses.append((other, cells))
    facts = {name: left_out[name] for name in ("spearman", "same_sign", "cells")}
    return facts | {
        "tasks": left_out["tasks"],
        "losses": [(other, cells) for other, cells in losses if cells],
    }


def _describe_attention(attention: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """For each task of the joint model the share of attention that is its own, and the others that
    it reads most; who reads most from others first, and last of whom nothing is said.
    """
    if not attention:
        return []
    names = attention["tasks"]
    rows: list[dict[str, Any]] = []
    for task, weights in zip(names, attention["weights"], strict=True):
        own = weights[names.index(task)]
        sources = []
        if is_number(own):
            by_weight = sorted(zip(weights, names, strict=True), reverse=True)
            sources = [(other, weight) for weight, other in by_weight if other != task]
        rows.append({"task": task, "own": own, "sources": sources[:_MOST_SOURCES]})
    return sorted(rows, key=lambda row: row["own"] if is_number(row["own"]) else math.inf)
