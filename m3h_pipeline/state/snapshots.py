"""Snapshots: which there are, which label may be written to, and which are kept.

A snapshot is the label (a date) of one extraction; its steps lie in ``<out>/snapshots/<label>/``.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
import shutil
from collections.abc import Collection
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.layout import INGESTED, SNAPSHOTS
from m3h_pipeline.state.locks import lock_exclusively
from m3h_pipeline.state.paths import out_option


def as_date(label: str) -> dt.date | None:
    """The date that a label says, None where it is not one.

    >>> as_date("2026-01-05")
    datetime.date(2026, 1, 5)
    >>> [as_date(wrong) for wrong in ("2026-1-5", "20260105", "2026-02-30", "tomorrow")]
    [None, None, None, None]
    """
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", label):
        return None
    try:
        return dt.date.fromisoformat(label)
    except ValueError:
        return None


def need_date(label: str, out: Path) -> dt.date:
    """The date that a label says; an `InputError` where it is not one, as a partition of any name
    can be added.
    """
    date = as_date(label)
    if date is not None:
        return date
    raise InputError(
        f"the snapshot {label!r} is not a date, written as 2026-01-31: nothing was read or written "
        "for it. Run a partition that is a date; `m3h snapshot drop "
        f"{shlex.quote(label)}{out_option(out)}` removes this one"
    )


def snapshot_labels(out: Path) -> list[str]:
    """Labels of the snapshots that were ingested, from the earliest to the newest; what is no date
    does not count.
    """
    steps = (out / SNAPSHOTS).glob(f"[!.]*/{INGESTED}/step.json")
    labels = [step.parent.parent.name for step in steps]
    # Of four digits, two and two: in this order they are dates in order.
    return sorted(label for label in labels if as_date(label))


def select_removable(
    labels: Collection[str], needed: Collection[str], snapshots: int, days: int
) -> list[str]:
    """Which snapshots go, the newest and those that are needed never.

    One goes that is not among the newest ``snapshots``, or is older than the newest by more than
    ``days``; 0 sets no bound.

    >>> labels = ["2026-01-01", "2026-01-30", "2026-02-03"]
    >>> select_removable(labels, needed=["2026-01-01"], snapshots=1, days=0)
    ['2026-01-30']
    >>> select_removable(labels, needed=[], snapshots=0, days=7)
    ['2026-01-01']
    """
    ordered = sorted(labels)
    if not ordered:
        return []
    beyond = set(ordered[:-snapshots] if snapshots else [])
    if days:
        oldest = (dt.date.fromisoformat(ordered[-1]) - dt.timedelta(days=days)).isoformat()
        beyond |= {label for label in ordered if label < oldest}
    return sorted(beyond - {ordered[-1], *needed})


def remove_snapshots(out: Path, snapshots: Collection[str]) -> list[str]:
    """Remove snapshots; none where a run is under way, which leaves it to the next one. Returns
    those that went.
    """
    try:
        with lock_exclusively(out, wait=False):
            remove_snapshot_folders(out, snapshots)
    except BlockingIOError:
        return []
    return list(snapshots)


def remove_snapshot_folders(out: Path, snapshots: Collection[str]) -> None:
    """Remove the folders of snapshots, where there are, and what a killed removal left; for whoever
    holds `lock_exclusively`.
    """
    parent = out / SNAPSHOTS
    for snapshot in snapshots:
        if (parent / snapshot).exists():
            (parent / snapshot).rename(parent / f".{snapshot}.removed")
    for removed in parent.glob(".*.removed"):
        shutil.rmtree(removed)
