"""Snapshots: which there are, which label may be written to, and which are kept.

A snapshot is the label (a date) of one extraction; its steps lie in ``<out>/snapshots/<label>/``.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Source
from m3h_pipeline.storage import alone, read_step


def labels(out: Path) -> list[str]:
    """Labels of the snapshots that were ingested, from the earliest to the newest."""
    parent = out / "snapshots"
    return sorted(step.parent.parent.name for step in parent.glob("[!.]*/ingested/step.json"))


def check_label(out: Path, label: str, source: Source) -> None:
    """Refuse to write today's data under a label of the past; an `InputError` says what to do instead.

    The past is what lies before the newest snapshot: the first label may be any date, and the newest may be made anew
    when its source was mended. An earlier snapshot may be computed again as long as its source is as it was then.
    """
    newest = max(labels(out), default=label)
    if label >= newest or source.supports_as_of:
        return
    step = read_step(out / "snapshots" / label / "ingested")
    if step is None:
        raise InputError(
            f"snapshot {label} lies before the newest one, {newest}, and the source {source.name} can't be read as it "
            f"was then: today's data would stand under an old date. Choose a label after {newest}"
        )
    if step.info.get("fingerprint") != source.fingerprint():
        raise InputError(
            f"snapshot {label} is older than {newest}, and its source has changed since: today's data would stand "
            f"under an old date. What was computed for {label} stays as it is; choose a label after {newest}"
        )


def surplus(known: Collection[str], needed: Collection[str], snapshots: int, days: int) -> list[str]:
    """Which snapshots go, the newest and those that are needed never.

    One goes that is not among the newest ``snapshots``, or is older than the newest by more than ``days``; 0 sets no
    bound.

    >>> surplus(["2026-01-01", "2026-01-02", "2026-01-03"], needed=["2026-01-01"], snapshots=1, days=0)
    ['2026-01-02']
    >>> surplus(["2026-01-01", "2026-01-30", "2026-02-03"], needed=[], snapshots=0, days=7)
    ['2026-01-01']
    """
    ordered = sorted(known)
    if not ordered:
        return []
    beyond = set(ordered[:-snapshots] if snapshots else [])
    if days:
        oldest = (dt.date.fromisoformat(ordered[-1]) - dt.timedelta(days=days)).isoformat()
        beyond |= {label for label in ordered if label < oldest}
    return sorted(beyond - {ordered[-1], *needed})


def remove(out: Path, snapshots: Collection[str]) -> list[str]:
    """Remove snapshots; none where a run is under way, which leaves it to the next one. Returns those that went."""
    parent = out / "snapshots"
    try:
        with alone(out, wait=False):
            for snapshot in snapshots:
                (parent / snapshot).rename(parent / f".{snapshot}.removed")
            for gone in parent.glob(".*.removed"):
                shutil.rmtree(gone)
    except BlockingIOError:
        return []
    return list(snapshots)
