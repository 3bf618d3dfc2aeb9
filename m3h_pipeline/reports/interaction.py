"""Task interaction on the page: the pictures, the pairs, and what helps each task.

``tim`` is the content of tim.json: T tasks, rows are helped or harmed, columns are learned too.
"""

from __future__ import annotations

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
from m3h_pipeline.wording import is_number

_PHONE = 358 - 152  # Pixels beside the labels.
_MOST_HELPERS = 3
# What the page shows as tim.json holds it.
_COPIED = ("method", "unit", "network", "models", "seeds", "fdr", "groups", "estimator")


def build_section(tim: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All that the page's section shows; ``tasks``: records of metrics.json."""
    records = {task["task"]: task for task in tasks}
    metrics = {name: task["metric"] for name, task in records.items()}
    tim = arrange_tasks(tim, {name: task["department"] for name, task in records.items()})
    size = len(tim["tasks"])
    pairs = [_describe_pair(tim, i, j, metrics) for i in range(size) for j in range(size) if i != j]
    of_tasks = [_describe_task(tim, i, metrics, pairs) for i in range(size)]
    step = compute_shade_step(tim)
    edges = sum(pair["evidence"] for pair in pairs)
    section = {name: tim[name] for name in _COPIED}
    return section | {
        "grouping": describe_grouping(tim["groups"]) if tim["groups"] else [],
        "size": size,
        "plots": _draw_heat_maps(tim, metrics),
        "shade": f"{step:g}",
        "beyond": f"{step * (LEVELS - 1):g}",
        "legend": build_legend(step),
        "graph": _draw_graph(tim, metrics),
        "edges": edges,
        "drawn_edges": min(edges, MOST_EDGES),
        "tested": sum(pair["tested"] for pair in pairs),
        "retrained": sum(pair["source"] == "retrained" for pair in pairs),
        "pairs": pairs,
        "tasks": sorted(of_tasks, key=_rank_by_largest_effect),
        "leave_one_out": _describe_left_out(tim["leave_one_out"], tim["tasks"]),
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
    return charts.to_svg(graph, "Effects that survive, as arrows; the list holds the same.")


def _describe_pair(
    tim: Mapping[str, Any], i: int, j: int, metrics: Mapping[str, str]
) -> dict[str, Any]:
    """TIM(j -> i) as the tables and the sentences show it."""
    value = tim["matrix"][i][j]
    single = tim["single"][i]
    pair = None
    relative = None
    if is_number(value) and is_number(single) and tim["unit"] == "metric":
        if tim["method"] == "pairwise":
            pair = single + value
        # Against a score near 0 a relative change is large and says nothing.
        if abs(single) >= 0.1:
            relative = f"{100 * value / abs(single):+.1f}%".replace("-", "−")
    return {
        "task": tim["tasks"][i],
        "other": tim["tasks"][j],
        "metric": metrics.get(tim["tasks"][i], "score"),
        "value": value,
        "low": tim["low"][i][j],
        "high": tim["high"][i][j],
        "single": single,
        "pair": pair,
        "joint": tim["joint"][i],
        "relative": relative,
        "evidence": bool(tim["evidence"][i][j]),
        "tested": is_number(tim["q"][i][j]),
        "source": tim["source"][i][j],
    }


def _describe_task(
    tim: Mapping[str, Any], i: int, metrics: Mapping[str, str], pairs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What helps one task: its effects that survive, and the largest helpers whatever they are
    worth.
    """
    name = tim["tasks"][i]
    effects = [pair for pair in pairs if pair["task"] == name and is_number(pair["value"])]
    effects.sort(key=lambda pair: -pair["value"])
    helps = [pair for pair in effects if pair["evidence"] and pair["value"] > 0]
    harms = [pair for pair in reversed(effects) if pair["evidence"] and pair["value"] < 0]
    guesses = [pair for pair in effects if pair["value"] > 0 and not pair["evidence"]]
    return {
        "task": name,
        "metric": metrics.get(name, "score"),
        "n": tim["n"][i],
        "single": tim["single"][i],
        "joint": tim["joint"][i],
        "helps": helps[:_MOST_HELPERS],
        "harms": harms[:_MOST_HELPERS],
        "effects": len(helps) + len(harms),
        "helpers": guesses[:_MOST_HELPERS],
    }


def _rank_by_largest_effect(task: Mapping[str, Any]) -> float:
    return -max((abs(pair["value"]) for pair in (*task["helps"], *task["harms"])), default=0.0)


def _describe_left_out(
    left_out: Mapping[str, Any] | None, tasks: Sequence[str]
) -> dict[str, Any] | None:
    """For each task left out, whom the joint model misses it for most; None where it was not
    measured.
    """
    if not left_out:
        return None
    losses = []
    for at, other in enumerate(left_out["tasks"]):
        cells: list[dict[str, Any]] = []
        for i, task in enumerate(tasks):
            value = left_out["matrix"][i][at]
            if is_number(value):
                low = left_out["low"][i][at]
                high = left_out["high"][i][at]
                cells.append({"task": task, "low": low, "high": high, "value": value})
        cells.sort(key=lambda cell: -abs(cell["value"]))
        losses.append((other, cells[:_MOST_HELPERS]))
    facts = {name: left_out[name] for name in ("spearman", "same_sign", "cells")}
    return facts | {"losses": losses}
