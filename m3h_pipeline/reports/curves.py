"""The charts of one task: ROC, precision and recall, calibration; and the bars of what each modality adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m3h_pipeline.reports import words
from m3h_pipeline.reports.charts import PALETTE, styled

if TYPE_CHECKING:
    import altair as alt

_SIDE = 150
_DIAGONAL = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]


def task_curves(curves: Mapping[str, Any]) -> alt.LayerChart:
    """The panels of one task of detail.json, side by side."""
    import altair as alt

    if "points" not in curves:
        unit = f" ({curves['unit']})" if curves.get("unit") else ""
        return styled(_calibration(curves["bins"], f"predicted{unit}", f"observed mean{unit}", None))
    points = curves["points"]
    roc = [{"x": 1 - p["specificity"], "y": p["sensitivity"], "tip": _tip(p)} for p in points]
    precision = [{"x": p["sensitivity"], "y": p["ppv"], "tip": _tip(p)} for p in points]
    base = [{"x": 0, "y": curves["prevalence"]}, {"x": 1, "y": curves["prevalence"]}]
    panels = [
        _line([_DIAGONAL[0], *roc, _DIAGONAL[1]], _DIAGONAL, "1 − specificity", "sensitivity"),
        _line(precision, base, "sensitivity (recall)", "precision (PPV)"),
        _calibration(curves["bins"], "predicted risk", "observed share", (0, 1)),
    ]
    return styled(alt.hconcat(*panels, spacing=22))


def _tip(point: Mapping[str, Any]) -> str:
    return (
        f"Threshold {words.number(point['threshold'])}: flags {point['flagged']:.0%}, "
        f"sensitivity {words.number(point['sensitivity'])}, specificity {words.number(point['specificity'])}, "
        f"PPV {words.number(point['ppv'])}."
    )


def _line(points: Sequence[Mapping[str, Any]], guide: Sequence[Mapping[str, Any]], x: str, y: str) -> Any:
    """A curve through points in a unit square, over a dashed guide; points with a tip can be pointed at."""
    line = _data(points).mark_line(color=PALETTE["help-4"][0], strokeWidth=2, aria=False)
    return _square(_guide(guide, x, y), _encoded(line, x, y, (0, 1), order="row"), _targets(points, x, y, (0, 1)))


def _calibration(bins: Sequence[Mapping[str, Any]], x: str, y: str, domain: tuple[float, float] | None) -> Any:
    """What was observed against what was predicted, with intervals; on the diagonal they agree."""
    ends = [value for b in bins for value in (b["predicted"], b["low"], b["high"]) if words.known(value)]
    low, high = domain or (min(ends, default=0), max(ends, default=1))
    points = [
        {
            "x": b["predicted"], "y": b["observed"], "low": max(b["low"], low), "high": min(b["high"], high),
            "tip": f"Predicted {words.number(b['predicted'])}, observed {words.number(b['observed'])} "
            f"({words.interval(b['low'], b['high'])}).",
        }
        for b in bins
        if all(words.known(b[name]) for name in ("predicted", "observed", "low", "high"))
    ]  # fmt: skip
    diagonal = [{"x": low, "y": low}, {"x": high, "y": high}]
    rules = _data(points).mark_rule(color=PALETTE["help-3"][0], aria=False)
    rules = _encoded(rules, x, y, (low, high), field="low").encode(y2="high:Q")
    dots = _data(points).mark_circle(color=PALETTE["help-4"][0], size=40, opacity=1, aria=False)
    return _square(
        _guide(diagonal, x, y, (low, high)),
        rules,
        _encoded(dots, x, y, (low, high)),
        _targets(points, x, y, (low, high)),
    )


def _data(rows: Sequence[Mapping[str, Any]]) -> Any:
    import altair as alt

    return alt.Chart(alt.Data(values=[{"row": i, **row} for i, row in enumerate(rows)]))


def _guide(rows: Sequence[Mapping[str, Any]], x: str, y: str, domain: tuple[float, float] = (0, 1)) -> Any:
    dashed = _data(rows).mark_line(color=PALETTE["muted"][0], strokeDash=[4, 3], strokeWidth=1, aria=False)
    return _encoded(dashed, x, y, domain)


def _targets(rows: Sequence[Mapping[str, Any]], x: str, y: str, domain: tuple[float, float]) -> Any:
    """Wider than what is drawn and unseen until pointed at: they hold the tooltips."""
    rows = [row for row in rows if "tip" in row]
    return _encoded(_data(rows).mark_circle(size=70, opacity=0, color=PALETTE["help-4"][0]), x, y, domain).encode(
        description="tip:N"
    )


def _encoded(
    chart: Any, x: str, y: str, domain: tuple[float, float], field: str = "y", order: str | None = None
) -> Any:
    import altair as alt

    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = alt.Axis(tickCount=4, domain=False, ticks=False, labelOverlap=True)
    encodings: dict[str, Any] = {
        "x": alt.X("x:Q", title=x, scale=scale, axis=axis),
        "y": alt.Y(f"{field}:Q", title=y, scale=scale, axis=axis),
    }
    return chart.encode(**encodings, **({"order": f"{order}:Q"} if order else {}))


def _square(*layers: Any) -> Any:
    import altair as alt

    return alt.layer(*layers).properties(width=_SIDE, height=_SIDE)
