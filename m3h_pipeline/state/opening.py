"""What whoever opens an out-folder does first: its records name the place where it lies, and its
steps have the names of today.

Steps were once named after their arm (``joint/`` of the asset ``m3h_model``) or lay in a folder
shared with others of their stage (``valid/events/``). A step's folder now has the name of its
asset. Those of snapshots that were made before are renamed: forgetting a patient, scores and
comparisons with earlier nights must find them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.layout import list_snapshot_folders
from m3h_pipeline.state.location import update_location
from m3h_pipeline.state.locks import hold_lock, lock_exclusively
from m3h_pipeline.state.pages import is_served
from m3h_pipeline.state.steps import clear_leftovers

_LOCK = ".opening.lock"
# former folder of a snapshot -> the folder of today
_STEPS = {
    "joint": "m3h_model",
    "single_task": "single_task_models",
    "trees": "tree_models",
    "tim": "tim_report",
}
# former folder of several steps -> how each is named today
_GROUPS = {"valid": "valid_{}", "embedding": "{}_embedding"}


def open_out_folder(out: Path) -> None:
    """Bring the records and steps of an out-folder up to date; quick where they are.

    Can be killed at any moment and is then done again. Raises `InputError` where the folder can't
    be used as it is, with what mends it.
    """
    update_location(out)
    if not _find_former_snapshots(out):
        return
    reason = f"{out} was written by an earlier version, whose steps have other names"
    if is_served(out):
        raise InputError(f"{reason}, and `m3h ui` serves it: end that first, so they are renamed")
    try:
        # Two commands at once: the second finds it done.
        with hold_lock(out / _LOCK):
            snapshots = _find_former_snapshots(out)
            if snapshots:
                with lock_exclusively(out, wait=False):
                    for snapshot in snapshots:
                        _rename_steps(snapshot)
    except BlockingIOError:
        raise InputError(f"{reason}, and a run is at work in it: wait for it to end") from None
    except OSError as error:
        raise InputError(f"{reason}, and they can't be renamed ({error})") from error


def _find_former_snapshots(out: Path) -> list[Path]:
    return [snapshot for snapshot in list_snapshot_folders(out) if _has_former_steps(snapshot)]


def _has_former_steps(snapshot: Path) -> bool:
    """Whether there is a step under its former name, or what a killed run left of one."""
    names = [*_GROUPS]
    for name in _STEPS:
        names += [name, f".{name}.old", f".{name}.partial"]
    return any((snapshot / name).exists() for name in names)


def _rename_steps(snapshot: Path) -> None:
    for former, name in _STEPS.items():
        # What a killed run had begun is of no use to another version.
        clear_leftovers(snapshot, former)
        _rename_step(snapshot / former, snapshot / name)
        for lock in snapshot.glob(f".{former}.*lock"):
            lock.unlink()
    for group, pattern in _GROUPS.items():
        parent = snapshot / group
        if not parent.is_dir():
            continue
        clear_leftovers(parent)
        for folder in sorted(parent.glob("[!.]*")):
            _rename_step(folder, snapshot / pattern.format(folder.name))
        shutil.rmtree(parent)


def _rename_step(former: Path, folder: Path) -> None:
    if not former.is_dir():
        return
    if folder.exists():
        # Both versions have been at work here; this one's step is the one that is read.
        shutil.rmtree(former)
    else:
        former.rename(folder)
