"""The charts of one task: ROC, precision and recall, calibration.

A page has forty of them. What they look like is built and checked once; each then only has its own
data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from m3h_pipeline import wording
from m3h_pipeline.reports.charts import PALETTE, styled

_SIDE = 150
_UNIT = (0.0, 1.0)
_CORNERS = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]

Rows = list[dict[str, Any]]


def task_curves(curves: Mapping[str, Any]) -> dict[str, Any]:
    """The panels of one task of detail.json, side by side, as a Vega-Lite specification."""
    if "points" not in curves:
        bins = [b for b in curves["bins"] if _whole(b)]
        ends = [value for b in bins for value in (b["predicted"], b["low"], b["high"])]
        domain = min(ends, default=0.0), max(ends, default=1.0)
        unit = f" ({curves['unit']})" if curves.get("unit") else ""
        look = styled(_calibration(f"predicted{unit}", f"observed mean{unit}", domain)).to_dict()
        return {**look, "datasets": {"bins": _bins(bins, domain)}}
    points = curves["points"]
    roc = [{"x": 1 - p["specificity"], "y": p["sensitivity"], "tip": _tip(p)} for p in points]
    precision = [{"x": p["sensitivity"], "y": p["ppv"], "tip": _tip(p)} for p in points]
    data: dict[str, Rows] = {
        "roc": [_CORNERS[0], *roc, _CORNERS[1]],
        "roc points": roc,
        "precision": precision,
        "prevalence": [{"x": x, "y": curves["prevalence"]} for x in _UNIT],
        "bins": _bins([b for b in curves["bins"] if _whole(b)], _UNIT),
    }
    return {**_look(), "datasets": {name: _numbered(rows) for name, rows in data.items()}}


def _whole(one: Mapping[str, Any]) -> bool:
    return all(wording.is_number(one[name]) for name in ("predicted", "observed", "low", "high"))


def _bins(bins: Sequence[Mapping[str, Any]], domain: tuple[float, float]) -> Rows:
    return [
        {
            "x": b["predicted"], "y": b["observed"], "low": max(b["low"], domain[0]), "high": min(b["high"], domain[1]),
            "tip": (
                f"Predicted {wording.format_number(b['predicted'])}, observed {wording.format_number(b['observed'])} "
                f"({wording.format_interval(b['low'], b['high'])})."
            ),
        }
        for b in bins
    ]  # fmt: skip


def _numbered(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """In their order, which is that of the line through them."""
    return [{"row": i, **row} for i, row in enumerate(rows)]


def _tip(point: Mapping[str, Any]) -> str:
    return (
        f"Threshold {wording.format_number(point['threshold'])}: flags {point['flagged']:.0%}, sensitivity "
        f"{wording.format_number(point['sensitivity'])}, specificity {wording.format_number(point['specificity'])}, "
        f"PPV {wording.format_number(point['ppv'])}."
    )


@cache
def _look() -> dict[str, Any]:
    """The three panels of a binary task, without their data."""
    import altair as alt

    panels = [
        _line("roc", "roc points", _CORNERS, "1 − specificity", "sensitivity"),
        _line("precision", "precision", "prevalence", "sensitivity (recall)", "precision (PPV)"),
        _calibration("predicted risk", "observed share", _UNIT),
    ]
    return styled(alt.hconcat(*panels, spacing=22)).to_dict()


def _line(curve: str, points: str, guide: str | Rows, x: str, y: str) -> Any:
    """A curve in a unit square, over a dashed guide; its points can be pointed at."""
    line = _data(curve).mark_line(color=PALETTE["help-4"][0], strokeWidth=2, aria=False)
    return _square(
        _guide(guide, x, y, _UNIT),
        _encoded(line, x, y, _UNIT, order="row"),
        _targets(points, x, y, _UNIT),
    )


def _calibration(x: str, y: str, domain: tuple[float, float]) -> Any:
    """What was observed against what was predicted, with intervals; on the diagonal they agree."""
    diagonal = [{"x": end, "y": end} for end in domain]
    rules = _data("bins").mark_rule(color=PALETTE["help-3"][0], aria=False)
    dots = _data("bins").mark_circle(color=PALETTE["help-4"][0], size=40, opacity=1, aria=False)
    return _square(
        _guide(diagonal, x, y, domain),
        _encoded(rules, x, y, domain, field="low").encode(y2="high:Q"),
        _encoded(dots, x, y, domain),
        _targets("bins", x, y, domain),
    )


def _data(rows: str | Rows) -> Any:
    import altair as alt

    return alt.Chart(
        alt.NamedData(name=rows) if isinstance(rows, str) else alt.Data(values=_numbered(rows))
    )


def _guide(rows: str | Rows, x: str, y: str, domain: tuple[float, float]) -> Any:
    dashed = _data(rows).mark_line(
        color=PALETTE["muted"][0], strokeDash=[4, 3], strokeWidth=1, aria=False
    )
    return _encoded(dashed, x, y, domain)


def _targets(rows: str, x: str, y: str, domain: tuple[float, float]) -> Any:
    """Wider than what is drawn and unseen until pointed at: they hold the tooltips."""
    unseen = _data(rows).mark_circle(size=70, opacity=0, color=PALETTE["help-4"][0])
    return _encoded(unseen, x, y, domain).encode(description="tip:N")


def _encoded(
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


def _square(*layers: Any) -> Any:
    import altair as alt

    return alt.layer(*layers).properties(width=_SIDE, height=_SIDE)
