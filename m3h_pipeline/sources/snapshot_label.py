"""Which label a snapshot of a source may have: the past can't be read again where the source
doesn't replay it.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import Source
from m3h_pipeline.state.snapshots import need_date, snapshot_labels
from m3h_pipeline.state.steps import read_step


def check_label(out: Path, label: str, source: Source) -> None:
    """Refuse a label that is no date, or the wrong one for today's data; an `InputError` says what
    to do instead.

    The past is what lies before the newest snapshot: the first label may be any date up to tomorrow
    (a day on, where the hospital is ahead of this machine), and the newest may be made anew when
    its source was mended. An earlier snapshot may be computed again as long as its source is as it
    was then. One that is there already stands in the way of no other night, though it lies in the
    future: the clock was set back since. The demo has no today.
    """
    date = need_date(label, out)
    labels = snapshot_labels(out)
    is_to_come = date > dt.date.today() + dt.timedelta(days=1)
    if is_to_come and label not in labels and source.name != "demo":
        raise InputError(
            f"snapshot {label} lies in the future: nothing was read, since no night before it "
            f"could run any more. Choose today's date, {dt.date.today()} by this machine's clock"
        )
    newest = max(labels, default=label)
    if label >= newest or source.supports_as_of:
        return
    step = read_step(out / "snapshots" / label / "ingested")
    if step is None:
        raise InputError(
            f"snapshot {label} lies before the newest one, {newest}, and the source {source.name} "
            "can't be read as it was then: today's data would stand under an old date. Choose a "
            f"label after {newest}"
        )
    if step.info.get("fingerprint") != source.fingerprint():
        raise InputError(
            f"snapshot {label} is older than {newest}, and its source has changed since: today's "
            f"data would stand under an old date. What was computed for {label} stays as it is; "
            f"choose a label after {newest}"
        )
