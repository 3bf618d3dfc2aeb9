"""How the report's charts look, and the chart of the model against single-task networks;
those of TIM are in interaction_charts.py.

Drawn with Altair, put on the page as SVG, in Dagster's metadata as PNG.

SVG needs no script to be seen, is sharp on paper, and its colours can follow the reader's theme:
every chart is drawn in the light colours of `PALETTE`, and `to_svg` turns each into a CSS variable
that the page defines for both themes.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from m3h_pipeline.evaluation import claims
from m3h_pipeline.wording import (
    format_interval,
    format_metric,
    format_name,
    format_number,
    is_number,
)

if TYPE_CHECKING:
    import altair as alt

# name: (light, dark). The light ones are told apart by value, so each may stand only once.
PALETTE = {
    "ink": ("#1b1f24", "#e6edf3"),
    "muted": ("#57606a", "#9aa4af"),
    "line": ("#d0d7de", "#343b44"),
    "paper": ("#ffffff", "#0f141a"),
    "panel": ("#f4f6f8", "#181f27"),
    "link": ("#0a55c4", "#7cb7ff"),
    "warning": ("#fff3d1", "#3b2e05"),
    "warning-ink": ("#573f00", "#ffdf8a"),
    "help-4": ("#175594", "#9bcff8"),
    "help-3": ("#5699cf", "#2b6797"),
    "help-2": ("#a3c8e8", "#1f4a6e"),
    "help-1": ("#d9e8f5", "#17324a"),
    "none": ("#868f99", "#737e89"),
    "harm-1": ("#fce6d2", "#432a15"),
    "harm-2": ("#f6bd8c", "#66401c"),
    "harm-3": ("#df8038", "#8f5520"),
    "harm-4": ("#94440a", "#ffb878"),
}
# Alike in width wherever the page is opened, so that labels keep the room that was measured for
# them.
_FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
_PADDING = {"left": 12, "right": 12, "top": 6, "bottom": 4}
_DECIMALS = re.compile(r"\d+\.\d{3,}")
_SVG = "http://www.w3.org/2000/svg"


def draw_intervals(tasks: Sequence[Mapping[str, Any]], columns: int = 1) -> list[alt.LayerChart]:
    """Joint minus single-task with its interval, a row a claimed task, under its department.

    ``tasks``: records of metrics.json. Returns up to ``columns`` charts of about equal height on
    one scale, to stand side by side where there is room. No chart where nothing can be compared.
    The scale spans the AUROC tasks, whose differences are alike in size; another metric's interval
    that leaves it ends in an arrow.
    """
    shown = [t for t in tasks if t["claimed"] and is_number(t["difference"])]
    if not shown:
        return []
    departments: dict[str, list[Mapping[str, Any]]] = {}
    for task in shown:
        departments.setdefault(task["department"], []).append(task)
    low, high = _compute_domain(shown)
    rows_in_all = len(shown) + len(departments)
    chunks: list[list[dict[str, Any]]] = [[]]
    for department, members in departments.items():
        if (
            len(chunks) < columns
            and len(chunks[-1]) + (len(members) + 1) / 2 > rows_in_all / columns
        ):
            chunks.append([])
        chunks[-1].append({"row": f"# {format_name(department)}"})
        chunks[-1] += [_build_row(task, low, high) for task in members]
    return [_draw_rows(rows, low, high) for rows in chunks]


def draw_losses(epochs: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """The joint model's loss on the training and the validation split; ``epochs``: records as
    training reports them.
    """
    import altair as alt

    shades = {"training": PALETTE["none"][0], "validation": PALETTE["help-4"][0]}
    rows = [
        {"epoch": state["epoch"] + 1, "loss": state[field], "split": split}
        for state in epochs
        for split, field in (("training", "train_loss"), ("validation", "valid_loss"))
    ]
    drawn = chart_rows(rows).mark_line(point=True)
    drawn = drawn.encode(
        x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, grid=False, format="d")),
        y=alt.Y("loss:Q", scale=alt.Scale(zero=False), title="loss, all tasks"),
        color=alt.Color(
            "split:N", scale=alt.Scale(domain=list(shades), range=list(shades.values())), title=None
        ),
    )
    return apply_style(alt.layer(drawn).properties(width=360, height=200))


def to_svg(chart: alt.LayerChart | dict[str, Any], label: str) -> str:
    """The chart as inline SVG: colours as CSS variables, a tooltip in each mark that has a
    description.

    A chart may be given as its Vega-Lite specification. ``label`` says to a screen reader what the
    picture shows; the numbers themselves belong in a table beside it.
    """
    import vl_convert

    specification = chart if isinstance(chart, dict) else chart.to_dict()
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(specification))
    variables = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}
    for parent in list(root.iter()):
        for child in [c for c in parent if c.get("class") in ("background", "foreground")]:
            parent.remove(child)
    for element in root.iter():
        tip = element.get("aria-label") if not len(element) else None
        for attribute in [a for a in element.attrib if a == "role" or a.startswith("aria-")]:
            del element.attrib[attribute]
        if tip:
            ElementTree.SubElement(element, f"{{{_SVG}}}title").text = tip
        for place in ("d", "transform"):
            if place in element.attrib:
                element.set(
                    place,
                    _DECIMALS.sub(
                        lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."),
                        element.attrib[place],
                    ),
                )
        for paint in ("fill", "stroke"):
            if element.get(paint) in variables:
                element.set(paint, variables[element.get(paint, "")])
    for attribute, value in {"role": "img", "aria-label": label, "class": "plot"}.items():
        root.set(attribute, value)
    return ElementTree.tostring(root, encoding="unicode")


def to_png(chart: alt.LayerChart, scale: float = 1.5) -> bytes:
    """The chart as a PNG on white."""
    buffer = io.BytesIO()
    chart.properties(background=PALETTE["paper"][0], padding=8).save(
        buffer, format="png", scale_factor=scale
    )
    return buffer.getvalue()


def to_markdown(chart: alt.LayerChart, label: str) -> str:
    """The chart as a Markdown image that carries its own bytes, as Dagster's ``MetadataValue.md``
    shows it.
    """
    return f"![{label}](data:image/png;base64,{base64.b64encode(to_png(chart)).decode()})"


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 0.01
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(m * power, 9) for m in (1, 2, 2.5, 5, 10) if m * power >= value * (1 - 1e-9))


def _compute_domain(tasks: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Ends of the common scale, always with 0 inside."""
    alike = [t for t in tasks if "AUROC" in t["metric"]] or tasks
    fields = ("difference_low", "difference", "difference_high")
    values = [task[field] for task in alike for field in fields]
    ends = [0.0, *(value for value in values if is_number(value))]
    margin = 0.04 * ((max(ends) - min(ends)) or 0.1)
    return min(ends) - margin, max(ends) + margin


def _build_row(task: Mapping[str, Any], low: float, high: float) -> dict[str, Any]:
    value = task["difference"]
    start = task["difference_low"] if is_number(task["difference_low"]) else value
    end = task["difference_high"] if is_number(task["difference_high"]) else value
    ends = format_interval(task["difference_low"], task["difference_high"], sign=True)
    shown = ends or "no interval"
    metric = format_metric(task["metric"])
    other = "" if "AUROC" in task["metric"] else f" ({metric})"
    return {
        "row": f"{format_name(task['task'])}{other}",
        "value": value if low <= value <= high else None,
        "low": min(max(start, low), high),
        "high": min(max(end, low), high),
        "beyond": [edge for edge, out in ((low, start < low), (high, end > high)) if out],
        "verdict": {"better": "help-4", "worse": "harm-4"}.get(
            claims.get_verdict(task) or "", "none"
        ),
        "tip": (
            f"{format_name(task['task'])}: {metric} {format_number(value, sign=True)} ({shown}). "
            f"Model {format_number(task['value'])}, "
            f"with single-task networks {format_number(task['single_task'])}."
        ),
    }


def _draw_rows(rows: list[dict[str, Any]], low: float, high: float) -> alt.LayerChart:
    import altair as alt

    order = [row["row"] for row in rows]
    marks = [row for row in rows if "tip" in row]
    heading = "slice(datum.value, 0, 2) == '# '"
    gutter = 158  # Pixels for the names, left-aligned.
    step = round_up((high - low) / 5)
    y = alt.Y(
        "row:N",
        sort=None,
        scale=alt.Scale(domain=order),
        title=None,
        axis=alt.Axis(
            domain=False,
            ticks=False,
            labelAlign="left",
            labelPadding=gutter,
            labelLimit=gutter,
            labelExpr=f"{heading} ? slice(datum.value, 2) : datum.value",
            labelFontWeight=alt.condition(heading, alt.value(700), alt.value(400)),
            labelColor=alt.condition(
                heading, alt.value(PALETTE["muted"][0]), alt.value(PALETTE["ink"][0])
            ),
        ),
    )
    x = alt.X(
        "low:Q",
        scale=alt.Scale(domain=[low, high], nice=False),
        title="difference of the scores",
        axis=alt.Axis(
            orient="bottom",
            values=[step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)],
            labelOverlap=True,
            labelExpr="datum.value == 0 ? '0' : replace(format(datum.value, '+.3~f'), '-', '−')",
            grid=True,
            domain=False,
            ticks=False,
        ),
    )

    data = chart_rows(marks)
    zero = (
        chart_rows([{}])
        .mark_rule(color=PALETTE["muted"][0], aria=False)
        .encode(x=alt.XDatum(0, type="quantitative"))
    )
    # Wide and unseen until pointed at: it holds the tooltip of the row.
    target = data.mark_bar(opacity=0, fill=PALETTE["panel"][0]).encode(
        x=alt.XDatum(low, type="quantitative"), x2=alt.X2Datum(high), y=y, description="tip:N"
    )
    lines = data.mark_rule(strokeWidth=2, aria=False).encode(
        x=x, x2="high:Q", y=y, color=encode_colour("verdict:N")
    )
    dots = data.mark_circle(size=52, opacity=1, aria=False).encode(
        x="value:Q", y=y, color=encode_colour("verdict:N")
    )
    arrows = []
    for edge, shape in ((low, "triangle-left"), (high, "triangle-right")):
        beyond = [{**row, "edge": edge} for row in marks if edge in row["beyond"]]
        if beyond:
            points = chart_rows(beyond).mark_point(
                shape=shape, filled=True, size=50, opacity=1, aria=False
            )
            arrows.append(points.encode(x="edge:Q", y=y, color=encode_colour("verdict:N")))
    return apply_style(
        alt.layer(target, zero, lines, *arrows, dots).properties(width=186, height=alt.Step(19))
    )


def chart_rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A chart of some rows; Any, for the type checker can't follow Altair's chains."""
    import altair as alt

    return alt.Chart(alt.Data(values=rows))


def encode_colour(field: str) -> Any:
    """An encoding whose values are names of the palette."""
    import altair as alt

    scale = alt.Scale(domain=list(PALETTE), range=[light for light, _ in PALETTE.values()])
    channel = alt.Color
    if field.startswith("fill"):
        channel = alt.Fill
    elif field.startswith("stroke"):
        channel = alt.Stroke
    return channel(field, scale=scale, legend=None)


def apply_style(chart: Any, padding: Mapping[str, int] = _PADDING) -> alt.LayerChart:
    """The chart in the pages' look; ``padding``: pixels around, on each side."""
    ink, muted, line = (PALETTE[name][0] for name in ("ink", "muted", "line"))
    axis: dict[str, Any] = {
        "labelColor": ink,
        "titleColor": muted,
        "gridColor": line,
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    return (
        chart.properties(background="transparent", padding=dict(padding))
        .configure(font=_FONT)
        .configure_view(stroke=None)
        .configure_axis(aria=False, titleFontWeight="normal", **axis)
    )
