"""Pictures of task interaction: the heat map, and the graph of the effects that survive.

``tim`` is the content of tim.json: T tasks, rows are helped or harmed, columns are learned too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_pipeline.reports import charts
from m3h_pipeline.wording import (
    format_interval,
    format_metric,
    format_name,
    format_number,
    is_number,
)

if TYPE_CHECKING:
    import altair as alt

LEVELS = 4  # Shades on each side of nothing.
# Up to this many tasks fit a phone's width, with numbers in the cells of the wide heat map.
FEW_TASKS = 10
MOST_EDGES = 40  # More arrows than these hide each other.
_GAP = 0.5  # Cells between departments.
_GRAPH = 380  # Pixels of the circle's square.
_GRAPH_OF_TWO = 220  # With the names beside it still legible on a phone.
# Pixels around, for a reader's font that is wider than the one that was measured.
_ROOM = {"left": 18, "top": 22, "right": 44, "bottom": 14}


def draw_heat_map(
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
    stopped early is a small outline. With ``departments`` in ``tim`` these stand a little apart.
    Cells lie in row order, the diagonal included.
    """
    import altair as alt

    names = [format_name(task) for task in tim["tasks"]]
    places = _place_rows(tim.get("departments"), len(names))
    end = places[-1] + 1
    cells = _build_cells(tim, places, metrics or {}, numbers)
    middles = [place + 0.5 for place in places]
    names_at: dict[str, Any] = {
        "values": middles,
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
        charts.chart_rows(cells)
        .mark_rect(strokeWidth=1.5 if cell > 20 else 1)
        .encode(
            x=alt.X("x:Q", **across),
            x2="x2:Q",
            y=alt.Y("y:Q", **down),
            y2="y2:Q",
            fill=charts.encode_colour("fill:N"),
            stroke=charts.encode_colour("stroke:N"),
            description="tip:N",
        )
    ]
    middle = {"x": alt.X("middle_x:Q", **across), "y": alt.Y("middle_y:Q", **down)}
    if numbers:
        written = charts.chart_rows(cells).mark_text(fontSize=11, aria=False)
        colour = charts.encode_colour("text_fill:N")
        layers.append(written.encode(**middle, text="text:N", color=colour))
    if len(names) > FEW_TASKS and "departments" in tim:
        department_names = _place_department_names(tim["departments"], places, end)
        written = charts.chart_rows(department_names).mark_text(
            align="left", fontSize=11, color=charts.PALETTE["muted"][0], aria=False, clip=False
        )
        layers.append(written.encode(**middle, text="text:N"))
    picture = alt.layer(*layers).properties(width=cell * end, height=cell * end)
    return charts.apply_style(picture, _ROOM)


def _build_cells(
    tim: Mapping[str, Any], places: Sequence[float], metrics: Mapping[str, str], numbers: bool
) -> list[dict[str, Any]]:
    """What the heat map draws of each cell, in row order; ``numbers``: whether they are written."""
    step = compute_shade_step(tim)
    cells = []
    for i, top in enumerate(places):
        for j, left in enumerate(places):
            style = _style_cell(tim, i, j, step)
            # A number is wider than the small outline of what was stopped.
            is_written = numbers and i != j and not tim["stopped"][i][j]
            text = _format_short(tim["matrix"][i][j]) if is_written else ""
            cells.append(
                {
                    "x": left + style.margin,
                    "x2": left + 1 - style.margin,
                    "y": top + style.margin,
                    "y2": top + 1 - style.margin,
                    "middle_x": left + 0.5,
                    "middle_y": top + 0.5,
                    "fill": style.fill,
                    "stroke": style.shade,
                    "text": text,
                    "text_fill": style.text_fill,
                    "tip": describe_cell(tim, i, j, metrics),
                }
            )
    return cells


@dataclass(frozen=True)
class _CellStyle:
    """Colours of a cell, as names of the palette, and how far it stays from its edges."""

    shade: str
    fill: str
    text_fill: str
    margin: float


def _style_cell(tim: Mapping[str, Any], i: int, j: int, step: float) -> _CellStyle:
    survives = bool(tim["evidence"][i][j])
    text_fill = "muted"
    # A pale outline would vanish: outlines begin at the second shade.
    shade = _get_shade(tim["matrix"][i][j], step, 2)
    if survives:
        # The side is that of the skill, which was tested; where the metric went the other way, its
        # size says nothing of it.
        gain = tim["gain"][i][j]
        value = tim["matrix"][i][j]
        agrees = is_number(value) and value * gain > 0
        shade = _get_shade(value if agrees else math.copysign(step, gain), step, 1)
        text_fill = "paper" if shade.endswith("4") else "ink"
    if i == j:
        shade = "panel"
    return _CellStyle(
        shade=shade,
        fill=shade if survives or i == j else "paper",
        text_fill=text_fill,
        margin=0.32 if tim["stopped"][i][j] else 0.06,
    )


def _place_rows(departments: Sequence[str] | None, count: int) -> list[float]:
    """Where each row begins, in cells; departments of several tasks stand apart."""
    if not departments or len(set(departments)) in (1, count):
        return [float(i) for i in range(count)]
    changes = np.cumsum(
        [0] + [a != b for a, b in zip(departments[1:], departments[:-1], strict=True)]
    )
    return [float(i + _GAP * change) for i, change in enumerate(changes)]


def _place_department_names(
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
            "text": format_name(department),
        }
        for department, at in rows.items()
    ]


def draw_graph(
    tim: Mapping[str, Any], metrics: Mapping[str, str] | None = None
) -> alt.LayerChart | None:
    """The effects that survive as arrows from the task that is learned too; None where there is
    none.

    Only tasks with an arrow, around a circle in the order of ``tim``; the width is the change of
    skill, which means the same for every task.
    """
    import altair as alt

    edges = _select_edges(tim)
    if not edges:
        return None
    shown = sorted({i for edge in edges for i in edge})
    # Two stand side by side.
    first = -math.pi / 2 if len(shown) == 2 else 0
    angles = {
        i: (first + 2 * math.pi * place / len(shown)) % (2 * math.pi)
        for place, i in enumerate(shown)
    }
    lines = _build_arrows(tim, edges, angles, metrics or {})
    nodes = [_build_node(tim["tasks"][i], angle) for i, angle in angles.items()]
    heights = [node["y"] for node in nodes]
    ends = (min(heights) - 0.1, max(heights) + 0.1)
    across: dict[str, Any] = {"scale": alt.Scale(domain=[-1.1, 1.1], nice=False), "axis": None}
    down: dict[str, Any] = {"scale": alt.Scale(domain=ends, nice=False), "axis": None}
    x = alt.X("x:Q", **across)
    y = alt.Y("y:Q", **down)
    colour = charts.encode_colour("colour:N")
    stroke = alt.StrokeWidth("width:Q", scale=None, legend=None)
    arrows = charts.chart_rows(lines)
    angle = alt.Angle("angle:Q", scale=None)
    layers = [
        arrows.mark_rule(opacity=1).encode(
            x=x, y=y, x2="x2:Q", y2="y2:Q", color=colour, strokeWidth=stroke, description="tip:N"
        ),
        arrows.mark_point(shape="triangle", filled=True, size=110, opacity=1, aria=False).encode(
            x=alt.X("x2:Q", **across), y=alt.Y("y2:Q", **down), angle=angle, color=colour
        ),
        charts.chart_rows(nodes)
        .mark_circle(size=50, color=charts.PALETTE["ink"][0], opacity=1, aria=False)
        .encode(x=x, y=y),
    ]
    for side in ("left", "right"):
        named = charts.chart_rows([node for node in nodes if node["side"] == side]).mark_text(
            align=side, baseline="middle", fontSize=12, color=charts.PALETTE["ink"][0], aria=False
        )
        layers.append(
            named.encode(
                x=alt.X("label_x:Q", **across),
                y=alt.Y("label_y:Q", **down),
                text="text:N",
                angle=angle,
            )
        )
    width = _GRAPH if len(shown) > 2 else _GRAPH_OF_TWO
    height = width * (ends[1] - ends[0]) / 2.2
    return charts.apply_style(alt.layer(*layers).properties(width=width, height=height), _ROOM)


def _select_edges(tim: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The effects that survive, the largest first, up to `MOST_EDGES`."""
    size = len(tim["tasks"])
    edges = [(i, j) for i in range(size) for j in range(size) if i != j and tim["evidence"][i][j]]
    edges.sort(key=lambda edge: -abs(tim["gain"][edge[0]][edge[1]]))
    return edges[:MOST_EDGES]


def _place_on_circle(angle: float) -> np.ndarray:
    return np.array([math.sin(angle), math.cos(angle)])


def _build_arrows(
    tim: Mapping[str, Any],
    edges: Sequence[tuple[int, int]],
    angles: Mapping[int, float],
    metrics: Mapping[str, str],
) -> list[dict[str, Any]]:
    """An arrow an edge, from the task that is learned too; ``angles``: where each task stands."""
    places = {i: _place_on_circle(angle) for i, angle in angles.items()}
    strongest = max(abs(tim["gain"][i][j]) for i, j in edges)
    arrows = []
    for i, j in edges:
        along = (places[i] - places[j]) / np.linalg.norm(places[i] - places[j])
        # To and fro lie side by side.
        aside = 0.02 * np.array([along[1], -along[0]])
        start = (places[j] + 0.06 * along + aside).tolist()
        stop = (places[i] - 0.08 * along + aside).tolist()
        gain = tim["gain"][i][j]
        arrows.append(
            {
                "x": start[0],
                "y": start[1],
                "x2": stop[0],
                "y2": stop[1],
                "angle": math.degrees(math.atan2(along[0], along[1])),
                "width": 1.2 + 3.8 * abs(gain) / strongest,
                "colour": "help-4" if gain > 0 else "harm-4",
                "tip": describe_cell(tim, i, j, metrics),
            }
        )
    return arrows


def _build_node(task: str, angle: float) -> dict[str, Any]:
    place = _place_on_circle(angle)
    label = (1.06 * place).tolist()
    is_right = angle <= math.pi
    return {
        "x": place.tolist()[0],
        "y": place.tolist()[1],
        "label_x": label[0],
        "label_y": label[1],
        # What stands at the right is aligned left.
        "side": "left" if is_right else "right",
        # Along the radius, upright on both sides.
        "angle": math.degrees(angle) - (90 if is_right else 270),
        "text": format_name(task),
    }


def describe_cell(tim: Mapping[str, Any], i: int, j: int, metrics: Mapping[str, str]) -> str:
    """All that is known of one cell, in one line."""
    row = format_name(tim["tasks"][i])
    column = format_name(tim["tasks"][j])
    metric = format_metric(metrics.get(tim["tasks"][i], "score"))
    alone = format_number(tim["single"][i])
    if i == j:
        return f"{row}: {metric} alone {alone}."
    value = tim["matrix"][i][j]
    ends = format_interval(tim["low"][i][j], tim["high"][i][j], sign=True)
    if not is_number(value):
        return f"{column} → {row}: not measured."
    brackets = f" ({ends})" if ends else ""
    is_stopped = tim["stopped"][i][j]
    paired = tim["method"] == "pairwise" and is_number(tim["single"][i]) and not is_stopped
    pair = [f"with {column} {format_number(tim['single'][i] + value)}"] if paired else []
    stopped = " Stopped early." if is_stopped else ""
    skill = format_number(tim["gain"][i][j], sign=True)
    change = f"{metric} {format_number(value, sign=True)}{brackets}, skill {skill}"
    return f"{column} → {row}: {change}. {row} alone {', '.join([alone, *pair])}.{stopped}"


def compute_shade_step(tim: Mapping[str, Any]) -> float:
    """The change that one shade stands for: a round number by which nearly all cells fit the
    scale.
    """
    sizes = sorted(
        abs(value)
        for i, row in enumerate(tim["matrix"])
        for j, value in enumerate(row)
        if i != j and is_number(value)
    )
    return charts.round_up(sizes[math.ceil(0.95 * len(sizes)) - 1] / LEVELS) if sizes else 0.01


def _get_shade(value: float | None, step: float, lightest: int) -> str:
    if value is None or not is_number(value) or value == 0:
        return "none"
    level = min(LEVELS, max(lightest, math.ceil(abs(value) / step)))
    return f"help-{level}" if value > 0 else f"harm-{level}"


def _format_short(value: float | None) -> str:
    """A signed number for a small cell.

    >>> _format_short(0.0121), _format_short(-1.5), _format_short(0.0002), _format_short(None)
    ('+.012', '−1.500', '0', '')
    """
    if value is None or not is_number(value):
        return ""
    text = f"{value:+.3f}".replace("-", "−")
    if text[1:] == "0.000":
        return "0"
    return text.replace("0.", ".", 1) if text[1:3] == "0." else text


def build_legend(step: float) -> list[tuple[str, str]]:
    """The shades from most harm to most help, each with the change at which it begins."""
    levels = range(1, LEVELS + 1)
    harms = [(f"harm-{k}", "" if k == LEVELS else f"−{k * step:g}") for k in reversed(levels)]
    return harms + [(f"help-{k}", f"+{(k - 1) * step:g}" if k > 1 else "0") for k in levels]
