"""The approved model is the one that scores: a digest of all files of a registered version.

It is written into the audit line of the approval, and that line decides: tags in MLflow are
writable. Before a version is loaded, its files are copied into a private folder, the copy is
compared with the line, and the copy is loaded: nothing can be swapped between the two.

Nothing here imports m3h_core: the job that scores takes that of the registered model itself.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.audit import APPROVED, Audit, Line

# MLflow itself writes this file, into the copy or the store, whenever it gives a version out.
_MLFLOW_META = "registered_model_meta"
# Python's own, written into the store when a server runs the model from there.
_BYTECODE = "__pycache__"


def fetch(version: str, to: Path) -> Path:
    """Copy a version's files from MLflow into ``to``, a private folder; returns the model's folder.

    What the digest leaves out, MLflow's note and Python's bytecode, is taken out of the copy, so
    that it can't be loaded either. Raises `InputError` where MLflow no longer has the files.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = f"models:/{tracking.MODEL_NAME}/{version}"
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(to)))
    except (MlflowException, OSError) as error:
        raise InputError(_not_loadable(version, str(error).splitlines()[0])) from error
    if not any(folder.iterdir()):  # MLflow takes a folder that is gone for an empty one
        raise InputError(_not_loadable(version, "it has no files there"))
    (folder / _MLFLOW_META).unlink(missing_ok=True)
    for bytecode in [path for path in folder.rglob(_BYTECODE) if path.is_dir()]:
        shutil.rmtree(bytecode)
    return folder


def _not_loadable(version: str, why: str) -> str:
    return (
        f"version {version} of {tracking.MODEL_NAME} can't be loaded from MLflow ({why}): see that "
        "its artefacts are there, or let another version be the champion"
    )


def digest_of(folder: Path) -> str:
    """SHA-256 over the sorted relative names and the bytes of all files below a folder.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_text("b")
    ...     before = digest_of(Path(folder))
    ...     _ = Path(folder, "a").rename(Path(folder, "c"))
    ...     before == digest_of(Path(folder)), len(before)
    (False, 64)
    """
    digest = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, file in sorted(files.items()):
        if file.is_dir() and not file.is_symlink():
            continue
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
        # Both of a fixed length: no two sets of files give the same bytes here.
        digest.update(hashlib.sha256(name.encode()).digest())
        digest.update(content)
    return digest.hexdigest()


def digest_now(version: str) -> str:
    """The digest of a version's files as MLflow gives them out now."""
    with tempfile.TemporaryDirectory(prefix="m3h-model-") as scratch:
        return digest_of(fetch(version, Path(scratch)))


def approval(out: Path, version: str) -> dict[str, str] | None:
    """Of which files, when and by whom a version was approved, in the form that jobs take.

    None where its last decision is no approval, or one without a digest.
    """
    with Audit(out).alone() as book:
        last = book.last(version)
    return _as_config(last) if last and last.decision == APPROVED else None


def held_against(out: Path, version: str) -> dict[str, str] | None:
    """As `approval`, of the last line with a digest: an anchor counts though it was rejected
    later.
    """
    lines = [line for line in Audit(out).lines() if line.version == version and line.digest]
    return _as_config(lines[-1]) if lines else None


def _as_config(line: Line) -> dict[str, str] | None:
    if not line.digest:
        return None
    return {"digest": line.digest, "at": f"{line.at[:19]}Z", "by": line.who}


def not_approved(version: str, where: str = "") -> str:
    """What to do about a champion whose audit line has no digest, as a sentence."""
    return (
        f"version {version} of {tracking.MODEL_NAME} has no approval that names its files (it was "
        "approved with an earlier version of M3H, or its alias was set by hand in MLflow): nothing "
        f"is scored with it. Look at it again (`m3h review show {version}{where}`), then "
        f"`m3h review approve {version}{where}`"
    )


def fetch_approved(version: str, approved: dict[str, Any] | None, to: Path) -> Path:
    """`fetch`, then compare the copy with the approval; ``approved`` None: a trial of any files.

    Raises `InputError` where the files are not those that were approved.
    """
    folder = fetch(version, to)
    if approved is not None and digest_of(folder) != approved["digest"]:
        raise InputError(mismatch(version, approved))
    return folder


def mismatch(version: str, approved: dict[str, Any]) -> str:
    """What is said where a version's files have changed since."""
    return (
        f"the files of version {version} of {tracking.MODEL_NAME} in MLflow are not those that "
        f"were approved at {approved['at']} by {approved['by']}: it was not loaded, and nothing is "
        f"scored with it. Find out who changed them. `m3h review reject {version}` brings back the "
        "previous champion; or restore the artefacts from a backup, and `m3h review verify "
        f"{version}` says when they are right again"
    )


def verify(out: Path, version: str | None, to: Path | None) -> str:
    """``m3h review verify``: compare a version's files with its approval; returns what to say.

    ``to``: leave the copy that was compared there, to serve from; it must not exist yet.
    """
    from m3h_pipeline.registry.review import connect, reached
    from m3h_pipeline.registry.versions import need
    from m3h_pipeline.state.paths import out_option

    if to is not None and to.exists():
        raise InputError(f"{to} is there already: name a folder that does not exist")
    client = connect(out)
    with reached(client.tracking_uri):
        number = need(version=version or "", where=out_option(out)).version
    approved = approval(out, number)
    if approved is None:
        raise InputError(not_approved(number, out_option(out)))
    with tempfile.TemporaryDirectory(prefix="m3h-model-") as scratch:
        folder = fetch_approved(number, approved, Path(scratch))
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(str(folder), to)
    said = (
        f"version {number} holds the files that were approved at {approved['at']} by "
        f"{approved['by']}"
    )
    return f"{said} (SHA-256 {approved['digest']})" + (f"; a copy is in {to}" if to else "")
