"""Embeddings: speed against plain loops, what a second run costs, memory, and what the vectors are
worth.

    python benchmarks/embedding.py [--out DIR] [--repeats 3]
        [--part language vision precision again memory timeseries probe gpu]

CPU time on one thread, the median of runs that take turns, each ratio beside its limit:

- language: useful tokens (padding not counted) a second against a plain transformers loop, batches
  of 32 notes in the order in which they come, on notes of one length and of mixed lengths;
- vision: images a second against decoding and the network's forward pass measured apart, and
  against the forward pass alone;
- precision: the encoders of notes and images in bfloat16 against float32: speed, cosine, and what a
  probe on the demo hospital loses. Reads the run in --out. Skipped on a processor without bfloat16;
- again: a second run with nothing new, and what is run through the encoder where 1% of the items
  are new;
- memory: the largest resident size of the whole job on 1,000 and on 20,000 items (a small encoder,
  real files);
- timeseries: the statistics of all signals against a plain loop over series;
- probe: what the vectors of the demo hospital are worth to a linear probe (ridge regression fitted
  on train, tested on all other splits; the mean over the tasks that the demo's story says a
  modality drives; 95% intervals from resampling patients), and the learned time-series encoder
  against the statistics. Reads a finished run in --out, or makes one;
- gpu: the share of the encoder's bare forward rate that the whole of fit and transform reaches.
  Skipped without one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from embedding_clock import against, cpu_seconds, medians
from embedding_items import image_files, mixed, notes
from embedding_memory import apart, measure_memory
from embedding_precision import measure_precision
from embedding_probe import measure_probe

from m3h_core.embedders import EventSequences, LanguageEmbedder, VisionEmbedder
from m3h_core.embedders.hardware import autocast, on_gpu
from m3h_core.embedders.image_files import read_image
from m3h_core.embedders.series_statistics import STATISTICS
from m3h_core.embedders.series_statistics import statistics as series_statistics

# Parts --------------------------------------------------------------------------------------------


def plain_language(embedder: LanguageEmbedder, items: list[list[tuple[float, str]]]) -> int:
    """A plain loop: 32 notes at a time, all of their chunks padded to the longest; returns the
    useful tokens.
    """
    tokenizer, model = embedder.encoder.load()
    useful = 0
    for low in range(0, len(items), 32):
        texts = [row[0][1] for row in items[low : low + 32]]
        chunks = tokenizer(
            texts,
            truncation=True,
            max_length=256,
            stride=32,
            padding=True,
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        mask = chunks["attention_mask"]
        with torch.inference_mode():
            hidden = model(input_ids=chunks["input_ids"], attention_mask=mask).last_hidden_state
        useful += int(mask.sum())
        (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return useful


def measure_language(repeats: int) -> None:
    """Print useful tokens a second of both, on notes of one length and of mixed lengths."""
    embedder = LanguageEmbedder().fit(notes(8, np.full(8, 20)))
    print(f"\nlanguage (MiniLM){'plain loop':>14}{'ours':>9}   tokens a second; ours over plain")
    for name, lengths, limit in (("one length", np.full(256, 90), 1.0), ("mixed", mixed(256), 1.5)):
        items = notes(256, lengths)
        tokens = plain_language(embedder, items)
        taken = medians(
            {
                "plain": lambda i=items: plain_language(embedder, i),
                "ours": lambda i=items: embedder.transform(i),
            },
            repeats,
        )
        ratio = taken["plain"] / taken["ours"]
        rates = "".join(f"{tokens / seconds:>10.0f}" for seconds in taken.values())
        print(f"{name:<17}    {rates}   {against(ratio, limit)}", flush=True)


def measure_vision(repeats: int, scratch: Path) -> None:
    """Print the cost of an image: decoding, the encoder's forward pass, and all that the embedder
    does.
    """
    print(
        "\nvision (JPEG)      ms an image: decode, forward, embedder; (decode + forward) / embedder"
    )
    items = image_files(512, scratch / "images")
    files = [row[0][2] for row in items]
    embedder = VisionEmbedder().fit(items[:64])
    size = embedder.batch_size
    batch = torch.from_numpy(
        np.stack([read_image(file, embedder.image_size) for file in files[:size]])
    )

    def forward() -> None:
        with torch.inference_mode():
            for _ in range(len(files) // size):
                embedder.encoder.features(batch)

    taken = medians(
        {
            "decode": lambda: [read_image(file, embedder.image_size) for file in files],
            "forward": forward,
            "embedder": lambda: embedder.transform(items),
        },
        repeats,
    )
    ratio = (taken["decode"] + taken["forward"]) / taken["embedder"]
    costs = "".join(f"{1000 * seconds / len(files):>7.2f}" for seconds in taken.values())
    print(f"{embedder.model:<18}{costs}   {against(ratio, 0.9)}", flush=True)
    bare = taken["forward"] / taken["embedder"]
    print(
        f"images a second: forward {len(files) / taken['forward']:.0f}, "
        f"embedder {len(files) / taken['embedder']:.0f}: {against(bare, 0.9)}",
        flush=True,
    )


def measure_again(scratch: Path) -> None:
    """Print what a second run costs, where nothing and where 1% is new."""
    print("\nagain              first run s  second run s   first over second; items run of 1% new")
    fresh = notes(8, np.full(8, 60), seed=1)
    cases: dict[str, tuple[Callable[[], Any], list[Any], list[Any]]] = {
        "800 notes": (LanguageEmbedder, notes(800, np.full(800, 60)), fresh),
        "2000 images": (
            VisionEmbedder,
            image_files(2000, scratch / "again"),
            image_files(20, scratch / "fresh", prefix="new"),
        ),
    }
    for name, (new, items, more) in cases.items():
        cache = scratch / "cache"

        def run(
            items: list[Any], new: Callable[[], Any] = new, cache: Path = cache
        ) -> tuple[float, Any]:
            embedder = new()
            embedder.cache = cache
            embedder.encoder.load()  # so that what is compared is the work, not importing a library
            train = items[: len(items) // 2]
            return cpu_seconds(lambda: embedder.fit(train).transform(items)), embedder

        first, _ = run(items)
        second = statistics.median(run(items)[0] for _ in range(5))
        _, embedder = run([*items, *more])
        ratio = against(first / second, 100)
        print(
            f"{name:<18}{first:>12.1f}{second:>14.3f}   {ratio}; "
            f"{embedder.computed} of {len(more)}",
            flush=True,
        )


def measure_timeseries(repeats: int) -> None:
    """Print series a second of the statistics and of a plain loop."""
    rng = np.random.default_rng(0)
    n = 500
    size = 60_000
    codes = [f"signal_{i}" for i in range(40)]
    events = EventSequences(
        rng.integers(0, n, size),
        rng.integers(0, 40, size),
        -rng.random(size) * 24,
        rng.normal(size=size),
        n,
        codes=codes,
    )

    def loop() -> None:
        result = np.full((n, 40, len(STATISTICS)), np.nan)
        for i in range(n):
            for j in range(40):
                is_signal = (events.sample == i) & (events.code == j)
                if is_signal.any():
                    order = np.lexsort((events.value[is_signal], events.hours[is_signal]))
                    value = events.value[is_signal][order]
                    result[i, j, :4] = value.max(), value.min(), value.mean(), value.var()
                    if len(value) > 1:
                        step = np.diff(value)
                        moved = np.abs(np.diff(value))
                        result[i, j, 4:8] = step.mean(), moved.mean(), moved.max(), moved.sum()
                        result[i, j, 8] = value[-1] - value[0]
                        result[i, j, 10] = np.polyfit(events.hours[is_signal][order], value, 1)[0]

    taken = medians({"loop": loop, "ours": lambda: series_statistics(events, codes, None)}, repeats)
    rates = "".join(f"{40 * n / seconds:>10.0f}" for seconds in taken.values())
    print("\ntimeseries      plain loop      ours   series a second; ours over plain")
    print(f"{'statistics':<16}{rates}   {against(taken['loop'] / taken['ours'], 10)}", flush=True)


def measure_gpu(scratch: Path) -> None:
    """Print the share of the bare forward rate that fit and transform reach, by the wall clock."""
    if not on_gpu():
        print("\ngpu: none here, not measured")
        return
    print(f"\ngpu ({torch.cuda.get_device_name()})   items a second: bare forward, embedder; share")
    items = notes(20_000, mixed(20_000))
    language = LanguageEmbedder().fit(items[:500])
    tokens = language.encoder.tokenize([row[0][1] for row in items])
    language.encoder.forward(tokens.chunks[:2000])
    bare = _wall(lambda: language.encoder.forward(tokens.chunks))
    whole = _wall(lambda: language.transform(items))
    print(
        f"notes           {len(items) / bare:>9.0f}{len(items) / whole:>9.0f}   "
        f"{against(bare / whole, 0.9)}"
    )
    images = image_files(10_000, scratch / "gpu")
    vision = VisionEmbedder().fit(images[:500])
    batch = torch.zeros(vision.batch_size, 3, 224, 224, device="cuda")
    with torch.inference_mode(), autocast():
        bare = _wall(
            lambda: [vision.encoder.features(batch) for _ in range(len(images) // len(batch))]
        )
    whole = _wall(lambda: vision.transform(images))
    print(
        f"images          {len(images) / bare:>9.0f}{len(images) / whole:>9.0f}   "
        f"{against(bare / whole, 0.9)}"
    )


def _wall(work: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


# What the vectors are worth -----------------------------------------------------------------------


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "language": lambda options, _: measure_language(options.repeats),
    "vision": lambda options, scratch: measure_vision(options.repeats, scratch),
    "precision": lambda options, scratch: measure_precision(options.repeats, scratch, options.out),
    "again": lambda _, scratch: measure_again(scratch),
    "memory": lambda _, scratch: measure_memory(scratch),
    "timeseries": lambda options, _: measure_timeseries(options.repeats),
    "gpu": lambda _, scratch: measure_gpu(scratch),
    "probe": lambda options, scratch: measure_probe(options.out or scratch / "out"),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, help="all where left out")
    parser.add_argument("--out", type=Path, help="a finished run of the demo hospital")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.part or PARTS:
        apart(_measure, name, options)


def _measure(name: str, options: argparse.Namespace) -> None:
    if not on_gpu():
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        PARTS[name](options, Path(scratch))


if __name__ == "__main__":
    main()
