"""Step folders: computed once, written under a temporary name, renamed when whole.

A *step* is a folder with a ``step.json`` that says from what it was made (``key``) and what came
out (``version``, a hash of the bytes). A step whose key is unchanged is not computed again; a step
whose bytes are unchanged does not make later steps stale, since their keys hold its version. A kill
leaves either the old step or the new one, and beside it a hidden ``.<name>.partial`` that the next
run of the same key goes on from. Where a patient was erased from a step
(m3h_pipeline/erasure/forgetting.py), its version still names what it was made from, not the bytes
that are left.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from m3h_pipeline.errors import InputError

_RECORD = "step.json"
_STATE_LOCK = ".lock"
# What lies in an out-folder (docs/architecture.md).
_STATE = (
    "m3h.toml", "snapshots", "latest", "dagster", "mlflow", "cache", "demo-hospital", "scores.duckdb", "review.db",
    "forgotten.json", "ui.log",
)  # fmt: skip
_CODE = (".py", ".j2", ".sql")


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


def step_key(*parts: object) -> str:
    """Hash of all that decides a step's result; any JSON-ready values, paths by their text.

    >>> step_key("a", {"x": 1}) == step_key("a", {"x": 1}) != step_key("a", {"x": 2})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def code_version(*modules: str) -> str:
    """Hash of the source of modules or packages, so that changed code computes again.

    A package counts with its templates and SQL; a module counts alone, so name the package where
    such files lie beside it.

    >>> code_version("m3h_core.tasks") != code_version("m3h_core.cohort")
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
    with locked(folder.with_name(f".{folder.name}.lock")):
        partial = folder.with_name(f".{folder.name}.partial")
        _finish_rename(partial, folder, key)
        done = read_step(folder)
        if done is not None and done.key == key:
            return replace(done, reused=True)
        _prepare(partial, key)
        info = dict(build(partial) or {})
        version = content_hash(partial)
        record = {"key": key, "version": version, "info": info, "made_from": sorted(made_from)}
        _write_json(partial / _RECORD, record)
        (partial / "key").unlink()
        swap(partial, folder)
        return Step(folder, key, version, info, tuple(sorted(made_from)))


def revise(folder: Path, change: Callable[[Path], None]) -> None:
    """Change files of a finished step, all of them or none; its key and version stay, so nothing
    after it is stale.

    ``change(copy)`` works on a copy made of hard links: it must replace files, never write into
    them.
    """
    copy = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(copy, ignore_errors=True)
    copy_closed(folder, copy, ignored=[_RECORD], copy_function=_link)
    change(copy)
    # What makes the copy a whole step comes last.
    if (folder / _RECORD).exists():
        _link(folder / _RECORD, copy / _RECORD)
    swap(copy, folder)


def settle(parent: Path, name: str = "*") -> None:
    """Clear away what killed processes left beside the folders of that name in ``parent``; nobody
    may be at work there.

    A folder that was caught between the two renames of `swap` comes back as it was before.
    """
    for old in parent.glob(f".{name}.old"):
        folder = parent / old.name[1 : -len(".old")]
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for partial in parent.glob(f".{name}.partial"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def swap(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of another; at every moment one of the two is there or can
    be found.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def copy_closed(
    folder: Path, to: Path, *, ignored: Sequence[str] = (), copy_function: Any = shutil.copy2
) -> None:
    """Copy a folder with its modes; until they are set, nobody but the owner can look into it."""
    to.mkdir(mode=0o700)
    shutil.copytree(
        folder,
        to,
        ignore=shutil.ignore_patterns(*ignored),
        copy_function=copy_function,
        dirs_exist_ok=True,
    )


def _link(file: str | Path, to: str | Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a file system without hard links
        shutil.copy2(file, to)


def content_hash(folder: Path) -> str:
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


@contextmanager
def locked(file: Path, *, shared: bool = False, wait: bool = True) -> Generator[None]:
    """Hold a lock that the system frees when the process ends, however it ends: alone, or with
    others that share it.

    Raises `BlockingIOError` where it is taken and ``wait`` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(
            stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        )
        yield


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock of a file, in whatever way."""
    try:
        with locked(file, wait=False):
            return False
    except BlockingIOError:
        return True


def at_work(out: Path) -> AbstractContextManager[None]:
    """Held by whoever makes a step of an out-folder: many at a time, but never while `alone` is
    held.
    """
    return locked(out / _STATE_LOCK, shared=True)


@contextmanager
def alone(
    out: Path, *, wait: bool = True, on_wait: Callable[[], object] = lambda: None
) -> Generator[None]:
    """Held by whoever changes or removes finished steps of an out-folder: no step is made
    meanwhile.

    Calls ``on_wait`` once where a run is under way; raises `BlockingIOError` instead where ``wait``
    is False.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(out / _STATE_LOCK, wait=False))
        except BlockingIOError:
            if not wait:
                raise
            on_wait()
            held.enter_context(locked(out / _STATE_LOCK))
        yield


def read_json(file: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(file.read_text())


def write_json(file: Path, value: object) -> None:
    """Write JSON under a temporary name, then rename; the same value gives the same bytes."""
    partial = file.with_name(f".{file.name}.partial")
    _write_json(partial, value)
    os.replace(partial, file)


def keep_private() -> None:
    """What this process and its children write from now on, only their user can read; the first
    call of every entry.
    """
    os.umask(0o077)


def close_to_others(out: Path) -> None:
    """Make an out-folder its owner's alone, with what an earlier version left open in it.

    Below it, only what the pipeline itself writes is touched: ``--out .`` may name a folder with
    other things in it.
    """
    out.chmod(0o700)
    for name in _STATE:
        top = out / name
        if top.exists() and top.stat().st_mode & 0o077:
            for path in [top, *top.rglob("*")]:
                _close(path)


def copy_private(source: Path, to: Path) -> None:
    """Copy a file or a folder so that only its owner can read the copy, whatever the original's
    modes.
    """
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, to)
    for path in [to, *to.rglob("*")]:
        _close(path)


def _close(path: Path) -> None:
    if not path.is_symlink():
        with suppress(OSError):  # another user's: not ours to change
            path.chmod(path.stat().st_mode & 0o700)


def owner_only(file: Path) -> None:
    """Make an empty file that only its owner can read, before anything is written into it."""
    file.unlink(missing_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def discard(folder: Path) -> None:
    """Remove a step: what makes it a finished one goes first."""
    (folder / _RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder)


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors, whatever their memory order: the library writes a transposed
    array scrambled.

    >>> import tempfile
    >>> from safetensors.numpy import load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_arrays(Path(folder, "a"), {"a": np.arange(4).reshape(2, 2).T})
    ...     load_file(Path(folder, "a"))["a"].tolist()
    [[0, 2], [1, 3]]
    """
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _prepare(partial: Path, key: str) -> None:
    marker = partial / "key"
    if partial.exists() and not (marker.exists() and marker.read_text() == key):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    marker.write_text(key)


def _finish_rename(partial: Path, folder: Path, key: str) -> None:
    """A kill between the two renames of `swap` left a whole step under its temporary name."""
    whole = read_step(partial)
    if whole is not None and whole.key == key and not (partial / "key").exists():
        swap(partial, folder)
