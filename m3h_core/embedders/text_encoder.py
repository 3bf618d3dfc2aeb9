"""A transformers checkpoint as the encoder of texts: loaded, hashed, and run over chunks of tokens.

Legend: n texts or chunks, B chunks of a batch, L tokens of the longest of them, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m3h_core.embedders.checkpoints import find_checkpoint, hash_checkpoint
from m3h_core.embedders.hardware import autocast, compute_device, on_gpu, to_device

_TOKENIZED = 64
# Chunks are padded to a multiple of this.
_WIDTH = 8
_BATCH_TOKENS = 4096
_BATCH_TOKENS_GPU = 131_072


class Tokens(NamedTuple):
    """Token ids of chunks, the text [n] that each is of, and how many texts there are."""

    chunks: list[np.ndarray]
    text: np.ndarray
    texts: int


class TextEncoder:
    """The transformer of a ``checkpoint``.

    A text is cut into chunks of ``max_tokens`` that overlap by ``overlap``; ``batch_tokens``, or
    what fits the device, are run at once.
    """

    def __init__(
        self,
        checkpoint: str,
        revision: str | None,
        max_tokens: int,
        overlap: int,
        batch_tokens: int | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.revision = revision
        self.max_tokens = max_tokens
        self.overlap = overlap
        self.batch_tokens = batch_tokens
        self._folder: Path | None = None
        self._loaded: tuple[Any, Any] | None = None
        self._sha256 = ""

    @property
    def width(self) -> int:
        """H."""
        return self.load()[1].config.hidden_size

    def embed(self, texts: list[str]) -> np.ndarray:
        """Vectors [len(texts), H] of length 1; NaN for a text without tokens."""
        return self.embed_tokens(self.tokenize(texts))

    def tokenize(self, texts: list[str]) -> Tokens:
        """Cut texts into chunks; nothing of them is dropped."""
        chunks: list[np.ndarray] = []
        owner = [np.zeros(0, np.int64)]
        # A few at a time: the tokenizer keeps some hundred bytes a token until it is done.
        for low in range(0, len(texts), _TOKENIZED):
            some = self.load()[0](
                texts[low : low + _TOKENIZED],
                truncation=True,
                max_length=self.max_tokens,
                stride=self.overlap,
                return_overflowing_tokens=True,
                padding=False,
                return_token_type_ids=False,
                return_attention_mask=False,
            )
            chunks += [np.array(ids, dtype=np.int32) for ids in some["input_ids"]]
            owner.append(low + np.array(some["overflow_to_sample_mapping"]))
        return Tokens(chunks, np.concatenate(owner), len(texts))

    def embed_tokens(
        self, tokens: Tokens, progress: Callable[[float], None] = lambda _: None
    ) -> np.ndarray:
        """Vectors [texts, H] of length 1, as :meth:`embed` gives them."""
        if not tokens.texts:
            return np.zeros((0, 0), np.float32)
        weights = (
            np.array([len(chunk) for chunk in tokens.chunks])
            - self.load()[0].num_special_tokens_to_add()
        )
        of_chunks = self.forward(tokens.chunks, progress)
        total = np.zeros((tokens.texts, of_chunks.shape[1]), dtype=np.float64)
        np.add.at(total, tokens.text, of_chunks * np.maximum(weights, 0)[:, None])
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return (total / np.where(length > 0, length, np.nan)).astype(np.float32)

    def forward(
        self, chunks: list[np.ndarray], progress: Callable[[float], None] = lambda _: None
    ) -> np.ndarray:
        """Mean hidden state of each chunk [n, H]."""
        import torch

        tokenizer, model = self.load()
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

    def load(self) -> tuple[Any, Any]:
        """Tokenizer and model, loaded at the first use."""
        if self._loaded is None:
            import torch

            from m3h_core import _torchvision_guard  # noqa: F401  (before transformers' model classes)
            from transformers import AutoModel, AutoTokenizer  # isort: skip

            folder = self.folder()
            with _silence_transformers():
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
            self._loaded = tokenizer, model.eval().to(compute_device())
        return self._loaded

    def folder(self) -> Path:
        """Where the checkpoint lies on this machine; finding it settles the revision."""
        if self._folder is None:
            self._folder, self.revision = find_checkpoint(self.checkpoint, self.revision)
        return self._folder

    def use_folder(self, folder: Path) -> None:
        """Read the checkpoint from there, whatever it is called."""
        self._folder = folder

    def hash(self) -> str:
        """SHA-256 of the checkpoint's files."""
        if not self._sha256:
            self._sha256 = hash_checkpoint(self.folder())
        return self._sha256


@contextmanager
def _silence_transformers():
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
