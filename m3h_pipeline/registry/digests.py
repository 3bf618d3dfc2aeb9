"""The files of a registered version, and a digest of all of them.

Before a version is loaded, its files are copied into a private folder, the copy is compared with
the digest that was approved, and the copy is loaded: nothing can be changed between the two.

Nothing here imports m3h_core: the job that scores takes that of the registered model itself.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.state.scratch import open_private_folder

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
        raise InputError(_explain_not_loadable(version, str(error).splitlines()[0])) from error
    if not any(folder.iterdir()):  # MLflow takes a folder that was removed for an empty one
        raise InputError(_explain_not_loadable(version, "it has no files there"))
    (folder / _MLFLOW_META).unlink(missing_ok=True)
    for bytecode in [path for path in folder.rglob(_BYTECODE) if path.is_dir()]:
        shutil.rmtree(bytecode)
    return folder


def fetch_approved(version: str, approved: dict[str, Any] | None, to: Path) -> Path:
    """`fetch`, then compare the copy with the approval; ``approved`` None: a trial of any files.

    Raises `InputError` where the files are not those that were approved.
    """
    folder = fetch(version, to)
    if approved is not None and compute_digest(folder) != approved["digest"]:
        raise InputError(explain_mismatch(version, approved))
    return folder


def fetch_digest(out: Path, version: str) -> str:
    """The digest of a version's files as MLflow gives them out now."""
    with open_private_folder(out) as private:
        return compute_digest(fetch(version, private))


def fetch_digest_or_none(out: Path, version: str) -> str | None:
    """`fetch_digest`, None where MLflow no longer has the files."""
    try:
        return fetch_digest(out, version)
    except InputError:
        return None


def compute_digest(folder: Path) -> str:
    """SHA-256 over the sorted relative names and the bytes of all files below a folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_text("b")
    ...     before = compute_digest(Path(folder))
    ...     _ = Path(folder, "a").rename(Path(folder, "c"))
    ...     before == compute_digest(Path(folder)), len(before)
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


def explain_mismatch(version: str, approved: dict[str, Any]) -> str:
    """What is said where a version's files have changed since."""
    return (
        f"the files of version {version} of {tracking.MODEL_NAME} in MLflow are not those that "
        f"were approved at {approved['at']} by {approved['by']}: it was not loaded, and nothing is "
        f"scored with it. Find out who changed them. `m3h review reject {version}` brings back the "
        "previous champion; or restore the artefacts from a backup, and `m3h review verify "
        f"{version}` says when they are right again"
    )


def _explain_not_loadable(version: str, why: str) -> str:
    return (
        f"version {version} of {tracking.MODEL_NAME} can't be loaded from MLflow ({why}): see that "
        "its artefacts are there, or let another version be the champion"
    )
