"""Task interaction on the page: heat map, graph of the effects that survive, and words.

``tim`` is the content of tim.json: T tasks, rows are helped or harmed, columns are learned too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_pipeline import wording
from m3h_pipeline.reports import charts

if TYPE_CHECKING:
    import altair as alt

LEVELS = 4  # Shades on each side of nothing.
# Up to this many tasks fit a phone's width, with numbers in the cells of the wide heat map.
_FEW_TASKS = 10
_PHONE = 358 - 152  # Pixels beside the labels.
_GAP = 0.5  # Cells between departments.
_EDGES = 40  # More arrows than these hide each other.
_GRAPH = 380  # Pixels of the circle's square.
# Pixels around, for a reader's font that is wider than the one that was measured.
_ROOM = {"left": 18, "top": 22, "right": 44, "bottom": 14}
_HELPERS = 3
_BY_TASK = ("matrix", "low", "high", "q", "evidence", "source")


def section(tim: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All that the page's section shows; ``tasks``: records of metrics.json."""
    records = {task["task"]: task for task in tasks}
    metrics = {name: task["metric"] for name, task in records.items()}
    tim = arranged(tim, {name: task["department"] for name, task in records.items()})
    size = len(tim["tasks"])
    label = "Heat map of task interaction; the table of all pairs holds the same numbers."
    drawn: dict[str, dict[str, Any]]
    if size <= _FEW_TASKS:
        drawn = {
            "wide": {"cell": 50, "numbers": True},
            "narrow": {"cell": min(30, _PHONE // size), "numbers": False},
        }
    else:
        drawn = {"always": {"cell": 14, "numbers": False}}
    pairs = [_pair(tim, i, j, metrics) for i in range(size) for j in range(size) if i != j]
    step = shade_step(tim)
    network = graph(tim, metrics)
    edges = sum(pair["evidence"] for pair in pairs)
    return {
        **{
            name: tim[name]
            for name in (
                "method",
                "unit",
                "network",
                "models",
                "seeds",
                "fdr",
                "groups",
                "estimator",
            )
        },
        "grouping": grouping(tim["groups"]) if tim["groups"] else [],
        "size": size,
        "plots": {
            shape: charts.svg(heat_map(tim, metrics, **how), label) for shape, how in drawn.items()
        },
        "shade": f"{step:g}",
        "beyond": f"{step * (LEVELS - 1):g}",
        "legend": _legend(step),
        "graph": charts.svg(network, "Effects that survive, as arrows; the list holds the same.")
        if network
        else None,
        "edges": edges,
        "drawn_edges": min(edges, _EDGES),
        "tested": sum(pair["tested"] for pair in pairs),
        "retrained": sum(pair["source"] == "retrained" for pair in pairs),
        "pairs": pairs,
        "tasks": sorted(
            (_task(tim, i, metrics, pairs) for i in range(size)), key=_by_largest_effect
        ),
        "leave_one_out": _left_out(tim["leave_one_out"], tim["tasks"])
        if tim["leave_one_out"]
        else None,
    }


def arranged(tim: Mapping[str, Any], departments: Mapping[str, str]) -> dict[str, Any]:
    """The same with the tasks in an order in which likes are neighbours: departments, and tasks
    within each.

    ``departments`` is that of each task. Likeness is that of the tasks' rows and columns (average
    linkage, optimal leaf order). The result says its ``departments`` in the new order.
    """
    names = tim["tasks"]
    home = [departments.get(task, "other") for task in tim["tasks"]]
    matrix = np.array(
        [[value if wording.is_number(value) else 0.0 for value in row] for row in tim["matrix"]]
    )
    profile = np.hstack([matrix, matrix.T])
    groups = {
        department: [i for i, d in enumerate(home) if d == department]
        for department in dict.fromkeys(home)
    }
    means = np.array([profile[members].mean(0) for members in groups.values()])
    members = list(groups.values())
    order = [members[g][i] for g in _leaves(means) for i in _leaves(profile[members[g]])]
    new = dict(tim) | {"tasks": [names[i] for i in order], "departments": [home[i] for i in order]}
    for name in _BY_TASK:
        new[name] = [[tim[name][i][j] for j in order] for i in order]
    for name in ("single", "joint", "n"):
        new[name] = [tim[name][i] for i in order]
    if tim["leave_one_out"]:
        rows = {
            name: [tim["leave_one_out"][name][i] for i in order]
            for name in ("matrix", "low", "high")
        }
        new["leave_one_out"] = tim["leave_one_out"] | rows
    return new


def _leaves(profile: np.ndarray) -> list[int]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(profile) < 3:
        return list(range(len(profile)))
    return leaves_list(linkage(profile, "average", optimal_ordering=True)).tolist()


def heat_map(
    tim: Mapping[str, Any],
    metrics: Mapping[str, str] | None = None,
    *,
    cell: int = 46,
    numbers: bool = True,
) -> alt.LayerChart:
    """A row gains (blue) or loses (orange) when the column's task is learned too; the order is that
    of ``tim``.

    ``metrics``: the metric of each task, for the tooltips; ``cell``: pixels. Filled is what
    survives the control of the false discovery rate; measured without surviving is an outline;
    estimated is a small outline. With ``departments`` in ``tim`` these stand a little apart. Cells
    lie in row order, the diagonal included.
    """
    import altair as alt

    names = [wording.format_name(task) for task in tim["tasks"]]
    places = _places(tim.get("departments"), len(names))
    step = shade_step(tim)
    end = places[-1] + 1
    cells = []
    for i, top in enumerate(places):
        for j, left in enumerate(places):
            value = tim["matrix"][i][j]
            alone = i == j
            clear = bool(tim["evidence"][i][j])
            estimated = tim["source"][i][j] == "estimated"
            # A pale outline would vanish: outlines begin at the second shade.
            shade = "panel" if alone else _shade(value, step, lightest=1 if clear else 2)
            margin = 0.32 if estimated and not alone else 0.06
            cells.append(
                {
                    "x": left + margin,
                    "x2": left + 1 - margin,
                    "y": top + margin,
                    "y2": top + 1 - margin,
                    "middle_x": left + 0.5,
                    "middle_y": top + 0.5,
                    "fill": shade if clear or alone else "paper",
                    "stroke": shade,
                    "text": "" if alone or not numbers else _short(value),
                    "text_fill": ("paper" if shade.endswith("4") else "ink") if clear else "muted",
                    "tip": cell_words(tim, i, j, metrics or {}),
                }
            )
    names_at: dict[str, Any] = {
        "values": (middles := [place + 0.5 for place in places]),
        "labelExpr": f"{json.dumps(names)}[indexof({json.dumps(middles)}, datum.value)]",
        "labelOverlap": False,
        "grid": False,
        "ticks": False,
        "domain": False,
        "labelLimit": 150,
        "labelFontSize": 12 if cell > 20 else 11,
    }
    # Every layer says the same of the axes: Vega-Lite would merge what one of them leaves out.
    across: dict[str, Any] = {
        "scale": alt.Scale(domain=[0, end], nice=False),
        "axis": alt.Axis(
            orient="top", labelAngle=-40 if numbers and cell > 40 else -90, **names_at
        ),
        "title": None,
    }
    down: dict[str, Any] = {
        "scale": alt.Scale(domain=[end, 0], nice=False),
        "axis": alt.Axis(**names_at),
        "title": None,
    }
    layers = [
        _data(cells)
        .mark_rect(strokeWidth=1.5 if cell > 20 else 1)
        .encode(
            x=alt.X("x:Q", **across),
            x2="x2:Q",
            y=alt.Y("y:Q", **down),
            y2="y2:Q",
            fill=charts.colour("fill:N"),
            stroke=charts.colour("stroke:N"),
            description="tip:N",
        )
    ]
    middle = {"x": alt.X("middle_x:Q", **across), "y": alt.Y("middle_y:Q", **down)}
    if numbers:
        written = _data(cells).mark_text(fontSize=11, aria=False)
        layers.append(written.encode(**middle, text="text:N", color=charts.colour("text_fill:N")))
    if len(names) > _FEW_TASKS and "departments" in tim:
        written = _data(_department_names(tim["departments"], places, end)).mark_text(
            align="left", fontSize=11, color=charts.PALETTE["muted"][0], aria=False, clip=False
        )
        layers.append(written.encode(**middle, text="text:N"))
    return charts.styled(alt.layer(*layers).properties(width=cell * end, height=cell * end), _ROOM)


def _places(departments: Sequence[str] | None, count: int) -> list[float]:
    """Where each row begins, in cells; departments of several tasks stand apart."""
    if not departments or len(set(departments)) in (1, count):
        return [float(i) for i in range(count)]
    changes = np.cumsum(
        [0] + [a != b for a, b in zip(departments[1:], departments[:-1], strict=True)]
    )
    return [float(i + _GAP * change) for i, change in enumerate(changes)]


def _department_names(
    departments: Sequence[str], places: Sequence[float], end: float
) -> list[dict[str, Any]]:
    """Each department's name at the right of the middle of its rows."""
    rows: dict[str, list[float]] = {}
    for place, department in zip(places, departments, strict=True):
        rows.setdefault(department, []).append(place + 0.5)
    return [
        {
            "middle_x": end + 0.5,
            "middle_y": float(np.mean(at)),
            "text": wording.format_name(department),
        }
        for department, at in rows.items()
    ]


def _data(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A chart of some rows; Any, for the type checker can't follow Altair's chains."""
    import altair as alt

    return alt.Chart(alt.Data(values=rows))


def graph(
    tim: Mapping[str, Any], metrics: Mapping[str, str] | None = None
) -> alt.LayerChart | None:
    """The effects that survive as arrows from the task that is learned too; None where there is
    none.

    Only tasks with an arrow, around a circle in the order of ``tim``; the width is the size of the
    effect.
    """
    import altair as alt

    size = len(tim["tasks"])
    edges = [(i, j) for i in range(size) for j in range(size) if i != j and tim["evidence"][i][j]]
    edges = sorted(edges, key=lambda e: -abs(tim["matrix"][e[0]][e[1]]))[:_EDGES]
    if not edges:
        return None
    shown = sorted({i for edge in edges for i in edge})
    turn = {i: 2 * math.pi * at / len(shown) for at, i in enumerate(shown)}
    at = {i: np.array([math.sin(a), math.cos(a)]) for i, a in turn.items()}
    strongest = max(abs(tim["matrix"][i][j]) for i, j in edges)
    lines = []
    for i, j in edges:
        along = (at[i] - at[j]) / np.linalg.norm(at[i] - at[j])
        # To and fro lie side by side.
        aside = 0.02 * np.array([along[1], -along[0]])
        start = at[j] + 0.06 * along + aside
        stop = at[i] - 0.08 * along + aside
        value = tim["matrix"][i][j]
        lines.append(
            {
                **dict(zip(("x", "y", "x2", "y2"), [*start.tolist(), *stop.tolist()], strict=True)),
                "angle": math.degrees(math.atan2(along[0], along[1])),
                "width": 1.2 + 3.8 * abs(value) / strongest,
                "colour": "help-4" if value > 0 else "harm-4",
                "tip": cell_words(tim, i, j, metrics or {}),
            }
        )
    nodes = [
        {
            **dict(zip(("x", "y"), at[i].tolist(), strict=True)),
            **dict(zip(("label_x", "label_y"), (1.06 * at[i]).tolist(), strict=True)),
            "side": "left" if turn[i] <= math.pi else "right",
            # Along the radius, upright on both sides.
            "angle": math.degrees(turn[i]) - (90 if turn[i] <= math.pi else 270),
            "text": wording.format_name(tim["tasks"][i]),
        }
        for i in shown
    ]
    plane: dict[str, Any] = {"scale": alt.Scale(domain=[-1.1, 1.1], nice=False), "axis": None}
    x = alt.X("x:Q", **plane)
    y = alt.Y("y:Q", **plane)
    colour = charts.colour("colour:N")
    width = alt.StrokeWidth("width:Q", scale=None, legend=None)
    arrows = _data(lines)
    angle = alt.Angle("angle:Q", scale=None)
    layers = [
        arrows.mark_rule(opacity=1).encode(
            x=x, y=y, x2="x2:Q", y2="y2:Q", color=colour, strokeWidth=width, description="tip:N"
        ),
        arrows.mark_point(shape="triangle", filled=True, size=110, opacity=1, aria=False).encode(
            x=alt.X("x2:Q", **plane), y=alt.Y("y2:Q", **plane), angle=angle, color=colour
        ),
        _data(nodes)
        .mark_circle(size=50, color=charts.PALETTE["ink"][0], opacity=1, aria=False)
        .encode(x=x, y=y),
    ]
    for side in ("left", "right"):
        named = _data([node for node in nodes if node["side"] == side]).mark_text(
            align=side, baseline="middle", fontSize=12, color=charts.PALETTE["ink"][0], aria=False
        )
        layers.append(
            named.encode(
                x=alt.X("label_x:Q", **plane),
                y=alt.Y("label_y:Q", **plane),
                text="text:N",
                angle=angle,
            )
        )
    return charts.styled(alt.layer(*layers).properties(width=_GRAPH, height=_GRAPH), _ROOM)


def cell_words(tim: Mapping[str, Any], i: int, j: int, metrics: Mapping[str, str]) -> str:
    """All that is known of one cell, in one line."""
    row = wording.format_name(tim["tasks"][i])
    column = wording.format_name(tim["tasks"][j])
    metric = wording.format_metric(metrics.get(tim["tasks"][i], "score"))
    alone = wording.format_number(tim["single"][i])
    together = wording.format_number(tim["joint"][i])
    whole = f"with all {len(tim['tasks'])} tasks {together}"
    if i == j:
        return f"{row}: {metric} alone {alone}, {whole}."
    value = tim["matrix"][i][j]
    ends = wording.format_interval(tim["low"][i][j], tim["high"][i][j], sign=True)
    if not wording.is_number(value):
        return f"{column} → {row}: not measured."
    said = f" ({ends})" if ends else ""
    if tim["unit"] != "metric":
        return f"{column} → {row}: {tim['unit']} {wording.format_number(value, sign=True)}{said}."
    paired = tim["method"] == "pairwise" and wording.is_number(tim["single"][i])
    pair = [f"with {column} {wording.format_number(tim['single'][i] + value)}"] if paired else []
    estimated = " Estimated, not retrained." if tim["source"][i][j] == "estimated" else ""
    change = f"{metric} {wording.format_number(value, sign=True)}{said}"
    return f"{column} → {row}: {change}. {row} alone {', '.join([alone, *pair, whole])}.{estimated}"


def shade_step(tim: Mapping[str, Any]) -> float:
    """The change that one shade stands for: a round number by which nearly all cells fit the
    scale.
    """
    sizes = sorted(
        abs(value)
        for i, row in enumerate(tim["matrix"])
        for j, value in enumerate(row)
        if i != j and wording.is_number(value)
    )
    return charts.round_up(sizes[math.ceil(0.95 * len(sizes)) - 1] / LEVELS) if sizes else 0.01


def _shade(value: float | None, step: float, lightest: int) -> str:
    if value is None or not wording.is_number(value) or value == 0:
        return "none"
    return f"{'help' if value > 0 else 'harm'}-{min(LEVELS, max(lightest, math.ceil(abs(value) / step)))}"


def _short(value: float | None) -> str:
    """A signed number for a small cell.

    >>> _short(0.0121), _short(-1.5), _short(0.0002), _short(None)
    ('+.012', '−1.500', '0', '')
    """
    if value is None or not wording.is_number(value):
        return ""
    text = f"{value:+.3f}".replace("-", "−")
    if text[1:] == "0.000":
        return "0"
    return text.replace("0.", ".", 1) if text[1:3] == "0." else text


def _legend(step: float) -> list[tuple[str, str]]:
    """The shades from most harm to most help, each with the change at which it begins."""
    levels = range(1, LEVELS + 1)
    harms = [(f"harm-{k}", "" if k == LEVELS else f"−{k * step:g}") for k in reversed(levels)]
    return harms + [(f"help-{k}", f"+{(k - 1) * step:g}" if k > 1 else "0") for k in levels]


def _pair(tim: Mapping[str, Any], i: int, j: int, metrics: Mapping[str, str]) -> dict[str, Any]:
    """TIM(j -> i) as the tables and the sentences show it."""
    value = tim["matrix"][i][j]
    single = tim["single"][i]
    measured = wording.is_number(value) and wording.is_number(single)
    in_metric = measured and tim["unit"] == "metric"
    return {
        "task": tim["tasks"][i],
        "other": tim["tasks"][j],
        "metric": metrics.get(tim["tasks"][i], "score"),
        "value": value,
        "low": tim["low"][i][j],
        "high": tim["high"][i][j],
        "single": single,
        "pair": single + value if in_metric and tim["method"] == "pairwise" else None,
        "joint": tim["joint"][i],
        # Against a score near 0 a relative change is large and says nothing.
        "relative": f"{100 * value / abs(single):+.1f}%".replace("-", "−")
        if in_metric and abs(single) >= 0.1
        else None,
        "evidence": bool(tim["evidence"][i][j]),
        "tested": wording.is_number(tim["q"][i][j]),
        "source": tim["source"][i][j],
    }


def _task(
    tim: Mapping[str, Any], i: int, metrics: Mapping[str, str], pairs: Sequence[Mapping[str, Any]]
) -> dict:
    """What helps one task: its effects that survive, and the largest helpers whatever they are
    worth.
    """
    mine = sorted(
        (p for p in pairs if p["task"] == tim["tasks"][i] and wording.is_number(p["value"])),
        key=lambda p: -p["value"],
    )
    return {
        "task": tim["tasks"][i],
        "metric": metrics.get(tim["tasks"][i], "score"),
        "n": tim["n"][i],
        "single": tim["single"][i],
        "joint": tim["joint"][i],
        "helps": (helps := [p for p in mine if p["evidence"] and p["value"] > 0])[:_HELPERS],
        "harms": (harms := [p for p in reversed(mine) if p["evidence"] and p["value"] < 0])[
            :_HELPERS
        ],
        "effects": len(helps) + len(harms),
        "helpers": [p for p in mine if p["value"] > 0 and not p["evidence"]][:_HELPERS],
    }


def _by_largest_effect(task: Mapping[str, Any]) -> float:
    return -max((abs(pair["value"]) for pair in (*task["helps"], *task["harms"])), default=0.0)


def grouping(groups: Mapping[str, Any]) -> list[str]:
    """Which tasks to train together, in sentences; ``groups``: those of tim.json.

    All options are compared by one measure, and groups are advised only where both splits say so.
    """
    scores = {_models(row["models"]): row for row in groups["tried"]} | {
        "one model a task": groups["single"]
    }
    chosen = _models(groups["models"])
    by_valid = sorted(scores, key=lambda option: -scores[option]["valid"])
    best = "one model a task" if groups["best"] == "single" else chosen
    second = next(option for option in by_valid if option != best)
    said = [
        f"Of {wording.join_words(list(scores))}, {best} did best on the validation split: mean score "
        f"{wording.format_number(scores[best]['valid'])}, then {second} with "
        f"{wording.format_number(scores[second]['valid'])}."
    ]
    gains = {"one model a task": groups["gain"]}
    if groups["models"] > 1:
        gains["one model of all tasks"] = groups["gain_over_joint"]
    against = [
        f"{wording.format_number(gain['value'], sign=True)} "
        f"({wording.format_interval(gain['low'], gain['high'], sign=True)}) against {other}"
        for other, gain in gains.items()
    ]
    said.append(f"On the test split {chosen} scored {wording.join_words(against)}.")
    return [*said, _advice(groups, gains)]


def _models(count: int) -> str:
    return "one model of all tasks" if count == 1 else f"{count} models"


def _advice(groups: Mapping[str, Any], gains: Mapping[str, Mapping[str, float]]) -> str:
    """What follows for whoever decides how to train."""
    if groups["advised"]:
        return "Both splits agree, so training in these groups is advised:"
    lost = [
        f"{wording.format_number(-gain['value'])} against {other}"
        for other, gain in gains.items()
        if gain["value"] < 0
    ]
    if groups["best"] != "groups":
        return "Training in groups is not advised."
    if lost:
        return f"Training in groups is not advised: on the test split it loses {wording.join_words(lost)}."
    return "Training in groups is not advised: on the test split no gain over both is shown."


def _left_out(left: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """For each task left out, whom the joint model misses it for most."""
    losses = []
    for at, other in enumerate(left["tasks"]):
        cells: list[dict[str, Any]] = [
            {
                "task": task,
                **{name: left[name][i][at] for name in ("low", "high")},
                "value": left["matrix"][i][at],
            }
            for i, task in enumerate(tasks)
            if wording.is_number(left["matrix"][i][at])
        ]
        losses.append((other, sorted(cells, key=lambda c: -abs(c["value"]))[:_HELPERS]))
    return {**{name: left[name] for name in ("spearman", "same_sign", "cells")}, "losses": losses}
