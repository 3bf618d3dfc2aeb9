"""The charts of one task: ROC, precision and recall, calibration.

A page has forty of them. What they look like is built and checked once; each then only has its own
data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from m3h_pipeline.reports.charts import PALETTE, apply_style
from m3h_pipeline.wording import format_interval, format_number, is_number

_SIDE = 150
_UNIT = (0.0, 1.0)
_CORNERS = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]

Rows = list[dict[str, Any]]


def draw_curves(curves: Mapping[str, Any]) -> dict[str, Any]:
    """The panels of one task of detail.json, side by side, as a Vega-Lite specification."""
    if "points" not in curves:
        bins = [b for b in curves["bins"] if _is_whole(b)]
        ends = [value for b in bins for value in (b["predicted"], b["low"], b["high"])]
        domain = min(ends, default=0.0), max(ends, default=1.0)
        unit = f" ({curves['unit']})" if curves.get("unit") else ""
        look = apply_style(
            _draw_calibration(f"predicted{unit}", f"observed mean{unit}", domain)
        ).to_dict()
        return {**look, "datasets": {"bins": _build_bin_rows(bins, domain)}}
    points = curves["points"]
    roc = [
        {"x": 1 - p["specificity"], "y": p["sensitivity"], "tip": _describe_point(p)}
        for p in points
    ]
    precision = [{"x": p["sensitivity"], "y": p["ppv"], "tip": _describe_point(p)} for p in points]
    data: dict[str, Rows] = {
        "roc": [_CORNERS[0], *roc, _CORNERS[1]],
        "roc points": roc,
        "precision": precision,
        "prevalence": [{"x": x, "y": curves["prevalence"]} for x in _UNIT],
        "bins": _build_bin_rows([b for b in curves["bins"] if _is_whole(b)], _UNIT),
    }
    return {
        **_build_panels(),
        "datasets": {name: _number_rows(rows) for name, rows in data.items()},
    }


def _is_whole(one: Mapping[str, Any]) -> bool:
    return all(is_number(one[name]) for name in ("predicted", "observed", "low", "high"))


def _build_bin_rows(bins: Sequence[Mapping[str, Any]], domain: tuple[float, float]) -> Rows:
    rows = []
    for one in bins:
        predicted = format_number(one["predicted"])
        observed = format_number(one["observed"])
        ends = format_interval(one["low"], one["high"])
        rows.append(
            {
                "x": one["predicted"],
                "y": one["observed"],
                "low": max(one["low"], domain[0]),
                "high": min(one["high"], domain[1]),
                "tip": f"Predicted {predicted}, observed {observed} ({ends}).",
            }
        )
    return rows


def _number_rows(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """In their order, which is that of the line through them."""
    return [{"row": i, **row} for i, row in enumerate(rows)]


def _describe_point(point: Mapping[str, Any]) -> str:
    threshold = format_number(point["threshold"])
    sensitivity = format_number(point["sensitivity"])
    specificity = format_number(point["specificity"])
    return (
        f"Threshold {threshold}: flags {point['flagged']:.0%}, sensitivity {sensitivity}, "
        f"specificity {specificity}, PPV {format_number(point['ppv'])}."
    )


@cache
def _build_panels() -> dict[str, Any]:
    """The three panels of a binary task, without their data."""
    import altair as alt

    panels = [
        _draw_curve("roc", "roc points", _CORNERS, "1 − specificity", "sensitivity"),
        _draw_curve(
            "precision", "precision", "prevalence", "sensitivity (recall)", "precision (PPV)"
        ),
        _draw_calibration("predicted risk", "observed share", _UNIT),
    ]
    return apply_style(alt.hconcat(*panels, spacing=22)).to_dict()


def _draw_curve(curve: str, points: str, guide: str | Rows, x: str, y: str) -> Any:
    """A curve in a unit square, over a dashed guide; its points can be pointed at."""
    line = _chart_data(curve).mark_line(color=PALETTE["help-4"][0], strokeWidth=2, aria=False)
    return _layer_square(
        _draw_guide(guide, x, y, _UNIT),
        _encode(line, x, y, _UNIT, order="row"),
        _draw_targets(points, x, y, _UNIT),
    )


def _draw_calibration(x: str, y: str, domain: tuple[float, float]) -> Any:
    """What was observed against what was predicted, with intervals; on the diagonal they agree."""
    diagonal = [{"x": end, "y": end} for end in domain]
    rules = _chart_data("bins").mark_rule(color=PALETTE["help-3"][0], aria=False)
    dots = _chart_data("bins").mark_circle(
        color=PALETTE["help-4"][0], size=40, opacity=1, aria=False
    )
    return _layer_square(
        _draw_guide(diagonal, x, y, domain),
        _encode(rules, x, y, domain, field="low").encode(y2="high:Q"),
        _encode(dots, x, y, domain),
        _draw_targets("bins", x, y, domain),
    )


def _chart_data(rows: str | Rows) -> Any:
    import altair as alt

    return alt.Chart(
        alt.NamedData(name=rows) if isinstance(rows, str) else alt.Data(values=_number_rows(rows))
    )


def _draw_guide(rows: str | Rows, x: str, y: str, domain: tuple[float, float]) -> Any:
    dashed = _chart_data(rows).mark_line(
        color=PALETTE["muted"][0], strokeDash=[4, 3], strokeWidth=1, aria=False
    )
    return _encode(dashed, x, y, domain)


def _draw_targets(rows: str, x: str, y: str, domain: tuple[float, float]) -> Any:
    """Wider than what is drawn and unseen until pointed at: they hold the tooltips."""
    unseen = _chart_data(rows).mark_circle(size=70, opacity=0, color=PALETTE["help-4"][0])
    return _encode(unseen, x, y, domain).encode(description="tip:N")


def _encode(
    chart: Any,
    x: str,
    y: str,
    domain: tuple[float, float],
    field: str = "y",
    order: str | None = None,
) -> Any:
    import altair as alt

    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    ticks: dict[str, Any] = {"values": [0, 0.5, 1]} if domain == _UNIT else {"tickCount": 3}
    axis = alt.Axis(domain=False, ticks=False, labelOverlap=True, **ticks)
    encodings: dict[str, Any] = {
        "x": alt.X("x:Q", title=x, scale=scale, axis=axis),
        "y": alt.Y(f"{field}:Q", title=y, scale=scale, axis=axis),
    }
    return chart.encode(**encodings, **({"order": f"{order}:Q"} if order else {}))


def _layer_square(*layers: Any) -> Any:
    import altair as alt

    return alt.layer(*layers).properties(width=_SIDE, height=_SIDE)
