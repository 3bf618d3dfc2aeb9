"""Which steps of a snapshot each step reads while it is made, from the files that were opened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from opened_files import FileEvent

from m3h_pipeline.state.steps import Step, read_step

# Steps that an asset makes beside its own -> that asset.
FURTHER_STEPS = {"gate": "model_version", "modalities": "m3h_model"}


def steps_read(events: Iterable[FileEvent], snapshot: Path) -> dict[str, set[str]]:
    """Step -> steps of the snapshot that were read while it was made, or that decided its key.

    A step is made while its lock is held (`produce`); what is opened meanwhile is read by it. An
    asset's further steps count as its own.
    """
    read: dict[str, set[str]] = defaultdict(set)
    current = None
    for path, is_open in events:
        # A job has a lock of its own, within that of its step.
        if not path.is_relative_to(snapshot) or path.name.endswith(".job.lock"):
            continue
        if path.name.endswith(".lock"):
            current = name_of(path, snapshot) if is_open else None
        elif is_open and current is not None:
            read[current].add(name_of(path, snapshot))
    steps = _finished_steps(snapshot)
    names = {step.version: name for name, step in steps.items()}
    assert len(names) == len(steps), "two steps of the same bytes"
    for name, step in steps.items():
        # Others are of another snapshot, or of an earlier state of this one.
        read[name] |= {names[version] for version in step.made_from if version in names}
    return {name: parts - {name} for name, parts in _merge_further(read).items()}


def _finished_steps(snapshot: Path) -> dict[str, Step]:
    steps = {}
    for file in snapshot.rglob("step.json"):
        step = read_step(file.parent)
        if step is not None:
            steps[name_of(file, snapshot)] = step
    return steps


def _merge_further(read: dict[str, set[str]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = defaultdict(set)
    for name, parts in read.items():
        merged[FURTHER_STEPS.get(name, name)] |= {FURTHER_STEPS.get(part, part) for part in parts}
    return merged


def name_of(path: Path, snapshot: Path) -> str:
    """The step that a file belongs to, also while that is made.

    >>> name_of(Path("/s/.valid_notes.partial/notes.parquet"), Path("/s"))
    'valid_notes'
    >>> name_of(Path("/s/.cohort.lock"), Path("/s"))
    'cohort'
    """
    name = path.relative_to(snapshot).parts[0]
    is_hidden = name.startswith(".") and name.endswith((".partial", ".lock", ".old"))
    return name[1:].rpartition(".")[0] if is_hidden else name
