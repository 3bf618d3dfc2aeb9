"""Step folders: computed once, written under a temporary name, renamed when whole.

A *step* is a folder with a ``step.json`` that says from what it was made (``key``) and what came
out (``version``, a hash of the bytes). A step whose key is unchanged is not computed again; a step
whose bytes are unchanged does not make later steps stale, since their keys hold its version. A kill
leaves either the old step or the new one, and beside it a hidden ``.<name>.partial`` that the next
run of the same key goes on from. Where a patient was erased from a step
(m3h_pipeline/erasure), its version still names what it was made from, not the bytes
that are left.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.data_files import write_json
from m3h_pipeline.state.locks import hold_lock
from m3h_pipeline.state.permissions import copy_folder_closed

_RECORD = "step.json"
_CODE = (".py", ".j2", ".sql", ".csv")


@dataclass(frozen=True)
class Step:
    """A finished step: its folder, what it was made from, a hash of what came out, and facts worth
    showing.

    ``made_from``: versions of the steps that it read.
    """

    folder: Path
    key: str
    version: str
    info: dict[str, Any] = field(default_factory=dict)
    made_from: tuple[str, ...] = ()
    reused: bool = False


def make_key(*parts: object) -> str:
    """Hash of all that decides a step's result; any JSON-ready values, paths by their text.

    >>> make_key("a", {"x": 1}) == make_key("a", {"x": 1}) != make_key("a", {"x": 2})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def code_version(*modules: str) -> str:
    """Hash of the source of modules or packages, so that changed code computes again.

    A package counts with its templates, SQL and tables; a module counts alone, so name the package
    where such files lie beside it.

    >>> code_version("m3h_core.data.tasks") != code_version("m3h_core.data.cohort")
    True
    """
    digest = hashlib.sha256()
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(module)
        root = Path(spec.origin)
        inside = (file for file in root.parent.rglob("*") if file.suffix in _CODE)
        files = sorted(inside) if spec.submodule_search_locations else [root]
        for file in files:
            digest.update(file.relative_to(root.parent).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def read_step(folder: Path) -> Step | None:
    """The finished step in ``folder``, or None where there is none."""
    try:
        record = json.loads((folder / _RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return Step(
        folder, record["key"], record["version"], record["info"], tuple(record.get("made_from", ()))
    )


def need_step(folder: Path) -> Step:
    """The finished step in ``folder``; an `InputError` where it was not made yet."""
    step = read_step(folder)
    if step is None:
        raise InputError(
            f"{folder} is not there yet: materialise the asset that it comes from first"
        )
    return step


def produce(
    folder: Path,
    key: str,
    build: Callable[[Path], Mapping[str, Any] | None],
    made_from: Sequence[str] = (),
) -> Step:
    """Return the step in ``folder``, built anew only where its key differs.

    ``build(partial)`` writes into a hidden folder beside it, which holds what an interrupted run of
    the same key left there, and returns facts worth showing (JSON-ready). Two processes building
    the same step wait for one another.
    """
    with hold_lock(folder.with_name(f".{folder.name}.lock")):
        partial = folder.with_name(f".{folder.name}.partial")
        _finish_rename(partial, folder, key)
        done = read_step(folder)
        if done is not None and done.key == key:
            return replace(done, reused=True)
        _prepare(partial, key)
        info = dict(build(partial) or {})
        version = hash_folder(partial)
        record = {"key": key, "version": version, "info": info, "made_from": sorted(made_from)}
        write_json(partial / _RECORD, record)
        (partial / "key").unlink()
        replace_folder(partial, folder)
        return Step(folder, key, version, info, tuple(sorted(made_from)))


@contextmanager
def open_scratch_folder(to: Path) -> Generator[Path]:
    """An empty folder within a step that is being made, for files that the work needs and the step
    does not keep.

    What a killed process left in it is removed: at the latest when the step is made again.
    """
    scratch = to / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def revise(folder: Path, change: Callable[[Path], None]) -> None:
    """Change files of a finished step, all of them or none; its key and version stay, so nothing
    after it is stale.

    ``change(copy)`` works on a copy made of hard links: it must replace files, never write into
    them.
    """
    copy = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(copy, ignore_errors=True)
    copy_folder_closed(folder, copy, ignored=[_RECORD], copy_function=_link)
    change(copy)
    # What makes the copy a whole step comes last.
    if (folder / _RECORD).exists():
        _link(folder / _RECORD, copy / _RECORD)
    replace_folder(copy, folder)


def clear_leftovers(parent: Path, name: str = "*") -> None:
    """Clear away what killed processes left beside the folders of that name in ``parent``; nobody
    may be at work there.

    A folder that was between the two renames of `replace_folder` comes back as it was before.
    """
    for old in parent.glob(f".{name}.old"):
        folder = parent / old.name[1 : -len(".old")]
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for partial in parent.glob(f".{name}.partial"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def replace_folder(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of another; at every moment one of the two is there or can
    be found.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def discard_step(folder: Path) -> None:
    """Remove a step: what makes it a finished one goes first."""
    (folder / _RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder)


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files below a folder, hidden ones left out."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or name.as_posix() in (_RECORD, "key"):
            continue
        digest.update(name.as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def _prepare(partial: Path, key: str) -> None:
    marker = partial / "key"
    if partial.exists() and not (marker.exists() and marker.read_text() == key):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    marker.write_text(key)


def _finish_rename(partial: Path, folder: Path, key: str) -> None:
    """Rename a whole step that a kill within `replace_folder` left under its temporary name."""
    whole = read_step(partial)
    if whole is not None and whole.key == key and not (partial / "key").exists():
        replace_folder(partial, folder)


def _link(file: str | Path, to: str | Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a file system without hard links
        shutil.copy2(file, to)
