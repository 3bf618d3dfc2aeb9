"""How the report's charts look, and the chart of joint against single-task; that of TIM is in
interaction.py.

Drawn with Altair, put on the page as SVG, in Dagster's metadata as PNG.

SVG needs no script to be seen, is sharp on paper, and its colours can follow the reader's theme:
every chart is drawn in the light colours of `PALETTE`, and `svg` turns each into a CSS variable
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

from m3h_pipeline import wording
from m3h_pipeline.evaluation import claims

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


def interval_charts(tasks: Sequence[Mapping[str, Any]], columns: int = 1) -> list[alt.LayerChart]:
    """Joint minus single-task with its interval, a row a claimed task, under its department.

    ``tasks``: records of metrics.json. Returns up to ``columns`` charts of about equal height on
    one scale, to stand side by side where there is room. No chart where nothing can be compared.
    The scale spans the AUROC tasks, whose differences are alike in size; another metric's interval
    that leaves it ends in an arrow.
    """
    shown = [t for t in tasks if t["claimed"] and wording.is_number(t["difference"])]
    if not shown:
        return []
    departments: dict[str, list[Mapping[str, Any]]] = {}
    for task in shown:
        departments.setdefault(task["department"], []).append(task)
    low, high = _domain(shown)
    rows_in_all = len(shown) + len(departments)
    chunks: list[list[dict[str, Any]]] = [[]]
    for department, members in departments.items():
        if (
            len(chunks) < columns
            and len(chunks[-1]) + (len(members) + 1) / 2 > rows_in_all / columns
        ):
            chunks.append([])
        chunks[-1].append({"row": f"# {wording.format_name(department)}"})
        chunks[-1] += [_interval_row(task, low, high) for task in members]
    return [_interval_chart(rows, low, high) for rows in chunks]


def losses(epochs: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
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
    drawn: Any = alt.Chart(alt.Data(values=rows)).mark_line(point=True)
    drawn = drawn.encode(
        x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, grid=False, format="d")),
        y=alt.Y("loss:Q", scale=alt.Scale(zero=False), title="loss, all tasks"),
        color=alt.Color(
            "split:N", scale=alt.Scale(domain=list(shades), range=list(shades.values())), title=None
        ),
    )
    return styled(alt.layer(drawn).properties(width=360, height=200))


def svg(chart: alt.LayerChart | dict[str, Any], label: str) -> str:
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


def png(chart: alt.LayerChart, scale: float = 1.5) -> bytes:
    """The chart as a PNG on white."""
    buffer = io.BytesIO()
    chart.properties(background=PALETTE["paper"][0], padding=8).save(
        buffer, format="png", scale_factor=scale
    )
    return buffer.getvalue()


def markdown(chart: alt.LayerChart, label: str) -> str:
    """The chart as a Markdown image that carries its own bytes, as Dagster's ``MetadataValue.md``
    shows it.
    """
    return f"![{label}](data:image/png;base64,{base64.b64encode(png(chart)).decode()})"


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 0.01
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(m * power, 9) for m in (1, 2, 2.5, 5, 10) if m * power >= value * (1 - 1e-9))


def _domain(tasks: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Ends of the common scale, always with 0 inside."""
    alike = [t for t in tasks if "AUROC" in t["metric"]] or tasks
    ends = [
        0.0,
        *(
            v
            for t in alike
            for v in (t["difference_low"], t["difference"], t["difference_high"])
            if wording.is_number(v)
        ),
    ]
    margin = 0.04 * ((max(ends) - min(ends)) or 0.1)
    return min(ends) - margin, max(ends) + margin


def _interval_row(task: Mapping[str, Any], low: float, high: float) -> dict[str, Any]:
    value = task["difference"]
    start, end = (
        v if wording.is_number(v) else value
        for v in (task["difference_low"], task["difference_high"])
    )
    shown = (
        wording.format_interval(task["difference_low"], task["difference_high"], sign=True)
        or "no interval"
    )
    metric = wording.format_metric(task["metric"])
    other = "" if "AUROC" in task["metric"] else f" ({metric})"
    return {
        "row": f"{wording.format_name(task['task'])}{other}",
        "value": value if low <= value <= high else None,
        "low": min(max(start, low), high),
        "high": min(max(end, low), high),
        "beyond": [edge for edge, out in ((low, start < low), (high, end > high)) if out],
        "verdict": {"better": "help-4", "worse": "harm-4"}.get(
            claims.get_verdict(task) or "", "none"
        ),
        "tip": f"{wording.format_name(task['task'])}: {metric} {wording.format_number(value, sign=True)} ({shown}). "
        f"Joint {wording.format_number(task['value'])}, single-task {wording.format_number(task['single_task'])}.",
    }


def _interval_chart(rows: list[dict[str, Any]], low: float, high: float) -> alt.LayerChart:
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
        title="joint minus single-task",
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

    def of(values: list[dict[str, Any]]) -> Any:
        return alt.Chart(alt.Data(values=values))

    data = of(marks)
    zero = (
        of([{}])
        .mark_rule(color=PALETTE["muted"][0], aria=False)
        .encode(x=alt.XDatum(0, type="quantitative"))
    )
    # Wide and unseen until pointed at: it holds the tooltip of the row.
    target = data.mark_bar(opacity=0, fill=PALETTE["panel"][0]).encode(
        x=alt.XDatum(low, type="quantitative"), x2=alt.X2Datum(high), y=y, description="tip:N"
    )
    lines = data.mark_rule(strokeWidth=2, aria=False).encode(
        x=x, x2="high:Q", y=y, color=colour("verdict:N")
    )
    dots = data.mark_circle(size=52, opacity=1, aria=False).encode(
        x="value:Q", y=y, color=colour("verdict:N")
    )
    arrows = [
        of([{**row, "edge": edge} for row in beyond])
        .mark_point(shape=shape, filled=True, size=50, opacity=1, aria=False)
        .encode(x="edge:Q", y=y, color=colour("verdict:N"))
        for edge, shape in ((low, "triangle-left"), (high, "triangle-right"))
        if (beyond := [row for row in marks if edge in row["beyond"]])
    ]
    return styled(
        alt.layer(target, zero, lines, *arrows, dots).properties(width=186, height=alt.Step(19))
    )


def colour(field: str) -> Any:
    """An encoding whose values are names of the palette."""
    import altair as alt

    scale = alt.Scale(domain=list(PALETTE), range=[light for light, _ in PALETTE.values()])
    kind = (
        alt.Fill
        if field.startswith("fill")
        else alt.Stroke
        if field.startswith("stroke")
        else alt.Color
    )
    return kind(field, scale=scale, legend=None)


def styled(chart: Any, padding: Mapping[str, int] = _PADDING) -> alt.LayerChart:
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
