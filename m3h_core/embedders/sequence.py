"""Time series: a small transformer that reads the events themselves, at their times.

An event is a token: its signal, its value and how long before the prediction time it was. What the
network learns from the training split, without labels, is to fill in values that are hidden from
it: some at random, or all of the last hours. So it learns how signals go together and where they
tend to. A sample's vector is

- the mean and the largest of its events' last hidden states,
- what the network expects each signal to be at the prediction time, whether or not it was measured
  lately.

Legend: N samples, E events, S signals, B samples of a batch, L events of the longest of them, D
width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress, Scaler, spread_positions
from m3h_core.embedders.event_transformer import HEADS, build_network
from m3h_core.embedders.events import (
    Events,
    EventSequences,
    count_samples,
    fit_value_scales,
    observed_codes,
    sample_blocks,
)
from m3h_core.embedders.hardware import autocast, compute_device, to_device

if TYPE_CHECKING:
    import torch

_HIDDEN_SHARE = 0.2
# In how many of the samples all of the last hours are hidden instead.
_FORECAST_SHARE = 0.3
_WIDTH = 16
_ROWS = 32


class SequenceEmbedder(Embedder):
    """Events of each sample as one vector, by a transformer that was trained to fill in hidden
    values.

    ``width_of_tokens`` is D. Of a sample with more than ``max_events`` events the latest of each
    signal stay, then the second latest, and so on. Signals of fewer than ``min_rows`` samples are
    left out. ``epochs`` passes over at most ``fit_samples`` samples are made. ``report`` says how
    much of the variance of hidden values the network explains in samples that it did not see (a
    tenth of those given).

    >>> hours = np.tile(-np.arange(6.0), 20)
    >>> events = EventSequences(np.repeat(np.arange(20), 6), ["hr"] * 120, hours, 60 - hours, n=20)
    >>> embedder = SequenceEmbedder(width_of_tokens=8, epochs=1).fit(events)
    >>> vectors, present = embedder.transform(events)
    >>> vectors.shape, bool(present.all())
    ((20, 17), True)
    """

    modality = "timeseries"
    _scaler: Scaler

    def __init__(
        self,
        width_of_tokens: int = 64,
        epochs: int = 20,
        max_events: int = 256,
        fit_samples: int = 20_000,
        batch_samples: int = 32,
        seed: int = 0,
        min_rows: int = 1,
    ) -> None:
        super().__init__()
        if width_of_tokens % HEADS:
            raise ValueError(
                f"width_of_tokens must be a multiple of {HEADS}, not {width_of_tokens}"
            )
        self.width_of_tokens = width_of_tokens
        self.epochs = epochs
        self.max_events = max_events
        self.fit_samples = fit_samples
        self.batch_samples = batch_samples
        self.seed = seed
        self.min_rows = min_rows
        self.codes: list[str] = []
        # [S, 4]: low and high limit, mean and spread of each signal's values.
        self._values = np.zeros((0, 4))
        self._network: Any = None

    def fit(self, items: Events, on_progress: Progress | None = None) -> Self:
        """Train on the samples given."""
        import torch

        self.codes = observed_codes(count_samples(items), min_rows=self.min_rows)
        events = items.take(spread_positions(items.n, self.fit_samples)).load()
        self._values = fit_value_scales(events, self.codes, self.min_rows > 1)
        sequences = self._sequences(events)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._network = build_network(len(self.codes), self.width_of_tokens).to(
                compute_device()
            )
            explained = self._train(sequences, on_progress)
        self._network.eval().requires_grad_(False)
        vectors, present = self._encode(events)
        self._scaler = Scaler.fit(vectors[present], drop=False)
        self.width = vectors.shape[1]
        self.report = {
            "signals": len(self.codes),
            "fitted on": int(present.sum()),
            "epochs": self.epochs,
            "variance of hidden values explained": explained,
        }
        return self

    def transform(
        self, items: Events, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed the events of N samples."""
        self._check_fitted()
        vectors = np.zeros((items.n, self.width), np.float32)
        present = np.zeros(items.n, bool)
        for rows in sample_blocks(items.n):
            raw, here = self._encode(items.take(rows).load())
            vectors[rows[here]] = self._scaler.transform(raw[here])
            present[rows] = here
            if on_progress:
                on_progress(int(rows[-1]) + 1, items.n)
        return vectors, present

    def _sequences(self, events: EventSequences) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Signal int64, hours and scaled value float32 of each sample's events; latest first."""
        signal = events.signals(self.codes)
        used = (signal >= 0) & np.isfinite(events.value)
        sample = events.sample[used]
        signal = signal[used]
        hours = events.hours[used]
        value = events.value[used]
        low, high, mean, spread = self._values[signal].T
        value = (np.clip(value, low, high) - mean) / spread
        order = np.lexsort((value, -hours, signal, sample))
        run = sample[order] * len(self.codes) + signal[order]
        starts = (
            np.flatnonzero(np.r_[True, run[1:] != run[:-1]]) if len(run) else np.zeros(0, np.int64)
        )
        # How many later values of the same signal there are.
        rank = np.empty(len(run), np.int64)
        rank[order] = np.arange(len(run)) - np.repeat(starts, np.diff(np.r_[starts, len(run)]))
        order = np.lexsort((value, signal, -hours, rank, sample))
        ends = np.searchsorted(sample[order], np.arange(events.n + 1))
        sequences = []
        for first, last in pairwise(ends):
            rows = np.sort(order[first : min(last, first + self.max_events)])
            rows = rows[np.lexsort((value[rows], signal[rows], -hours[rows]))]
            sequences.append(
                (signal[rows], hours[rows].astype(np.float32), value[rows].astype(np.float32))
            )
        return sequences

    def _train(
        self,
        sequences: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
        on_progress: Progress | None,
    ) -> float | None:
        """Train the network; returns the share of variance explained in a tenth of the samples,
        held back.
        """
        import torch

        several = [one for one in sequences if len(one[0]) > 1]
        left_out = several[::10]
        train_sequences = [one for i, one in enumerate(several) if i % 10]
        if not train_sequences:
            return None
        draw = torch.Generator().manual_seed(self.seed)
        steps = self.epochs * -(-len(train_sequences) // self.batch_samples)
        optimizer = torch.optim.AdamW(self._network.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 2e-3, total_steps=max(steps, 1), pct_start=0.1
        )
        self._network.train()
        for epoch in range(self.epochs):
            shuffled = torch.randperm(len(train_sequences), generator=draw).tolist()
            # Batches of like length, in random order.
            for rows in _like_lengths(
                [len(train_sequences[i][0]) for i in shuffled], self.batch_samples, draw
            ):
                batch = _batch([train_sequences[shuffled[i]] for i in rows])
                error, hidden = self._errors(batch, draw)
                loss = torch.nn.functional.smooth_l1_loss(
                    error[hidden], torch.zeros_like(error[hidden])
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            if on_progress:
                on_progress(epoch + 1, self.epochs)
        self._network.eval()
        squares = 0.0
        total = 0.0
        count = 0
        with torch.inference_mode():
            for rows in _like_lengths([len(one[0]) for one in left_out], self.batch_samples):
                batch = _batch([left_out[i] for i in rows])
                error, hidden = self._errors(batch, draw)
                squares += float(error[hidden].square().sum())
                total += float(to_device(batch[2])[hidden].square().sum())
                count += int(hidden.sum())
        return round(1 - squares / total, 3) if count and total > 0 else None

    def _errors(
        self,
        batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        draw: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hide values of a batch; prediction minus value [B, L], and which were hidden [B, L]."""
        import torch

        signal, hours, value, mask = batch
        n = len(signal)
        hidden = torch.rand(signal.shape, generator=draw) < _HIDDEN_SHARE
        # All values later than one of the sample's own times.
        cut = hours.gather(1, (torch.rand(n, 1, generator=draw) * mask.sum(1, keepdim=True)).long())
        forecast = torch.rand(n, 1, generator=draw) < _FORECAST_SHARE
        hidden = torch.where(forecast, hours > cut, hidden) & mask
        signal, hours, value, mask, hidden = (
            to_device(part) for part in (signal, hours, value, mask, hidden)
        )
        with autocast(on_cpu=False):  # so narrow a network gains nothing there
            states = self._network(signal, hours, value, mask, hidden)
            error = self._network.expected(states, signal).float() - value
        return error, hidden

    def _encode(self, events: EventSequences) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, 2 D + S] before scaling, and present [n]."""
        import torch

        sequences = self._sequences(events)
        present = np.array([len(one[0]) > 0 for one in sequences], dtype=bool)
        vectors = np.zeros((len(sequences), 2 * self.width_of_tokens + len(self.codes)), np.float32)
        lengths = np.array([len(one[0]) for one in sequences])
        asked = torch.arange(len(self.codes), device=compute_device())
        with torch.inference_mode(), autocast(on_cpu=False):
            for rows in _like_widths(lengths):
                batch = _batch([sequences[i] for i in rows])
                signal, hours, value, mask = (to_device(part) for part in batch)
                # For each signal a hidden value at the prediction time, that the events do not see.
                states, now = self._network.encode(signal, hours, value, mask, asked)
                weight = mask[:, :, None].float()
                mean = (states.float() * weight).sum(1) / weight.sum(1)
                most = states.float().masked_fill(~mask[:, :, None], -torch.inf).amax(1)
                vectors[rows] = torch.cat([mean, most, now.float()], dim=1).cpu().numpy()
        return vectors, present

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("width_of_tokens", "epochs", "max_events", "fit_samples", "batch_samples", "seed")
        arrays = {
            f"network/{name}": part.cpu().numpy()
            for name, part in self._network.state_dict().items()
        }
        about = {
            "options": {name: getattr(self, name) for name in names},
            "codes": self.codes,
            "report": self.report,
        }
        return about, arrays | {"values": self._values} | self._scaler.arrays()

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        import torch

        embedder = cls(**about["options"])
        embedder.codes = about["codes"]
        embedder.report = about["report"]
        embedder._values = arrays["values"]
        embedder._scaler = Scaler.from_arrays(arrays)
        network = build_network(len(embedder.codes), embedder.width_of_tokens)
        prefix = "network/"
        network.load_state_dict(
            {
                name.removeprefix(prefix): torch.from_numpy(a)
                for name, a in arrays.items()
                if name.startswith(prefix)
            }
        )
        embedder._network = network.to(compute_device()).eval().requires_grad_(False)
        return embedder


def _like_lengths(
    lengths: Sequence[int], size: int, draw: torch.Generator | None = None
) -> Iterator[np.ndarray]:
    """Rows of batches of ``size`` samples of a like length, in random order where there is
    ``draw``.
    """
    import torch

    batches = np.split(np.argsort(lengths, kind="stable"), range(size, len(lengths), size))
    order = (
        range(len(batches))
        if draw is None
        else torch.randperm(len(batches), generator=draw).tolist()
    )
    return (batches[i] for i in order if len(batches[i]))


def _like_widths(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of batches of samples that are padded alike; samples without events are left out."""
    widths = -(-lengths // _WIDTH) * _WIDTH
    for width in np.unique(widths[widths > 0]).tolist():
        rows = np.flatnonzero(widths == width)
        yield from np.split(rows, range(_ROWS, len(rows), _ROWS))


def _batch(
    sequences: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Signal, hours and value [B, L], padded, and which are there, bool [B, L]."""
    import torch

    lengths = np.array([len(one[0]) for one in sequences])
    mask = np.arange(-(-lengths.max() // _WIDTH) * _WIDTH) < lengths[:, None]
    parts = []
    for i, kind in enumerate((np.int64, np.float32, np.float32)):
        padded = np.zeros(mask.shape, kind)
        padded[mask] = np.concatenate([one[i] for one in sequences])
        parts.append(torch.from_numpy(padded))
    return parts[0], parts[1], parts[2], torch.from_numpy(mask)
