"""Embeddings: speed against plain loops, what a second run costs, memory, and what the vectors are
worth.

    python benchmarks/embedding.py [--part language vision again memory timeseries probe gpu] [--out DIR] [--repeats 3]

CPU time on one thread, the median of runs that take turns, each ratio beside its limit:

- language: useful tokens (padding not counted) a second against a plain transformers loop, batches of 32 notes in the
  order in which they come, on notes of one length and of mixed lengths;
- vision: images a second against decoding and the network's forward pass measured apart;
- again: a second run with nothing new, and what is run through the encoder where 1% of the items are new;
- memory: the largest resident size of the whole job on 1,000 and on 20,000 items (a small encoder, real files);
- timeseries: the statistics of all signals against a plain loop over series;
- probe: what the vectors of the demo hospital are worth to a linear probe (ridge regression fitted on train, tested on
  all other splits; the mean over the tasks that the demo's story says a modality drives; 95% intervals from resampling
  patients), and the learned time-series encoder against the statistics. Reads a finished run in --out, or makes one;
- gpu: the share of the encoder's bare forward rate that the whole of fit and transform reaches. Skipped without one.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import polars as pl
import torch
from PIL import Image

from m3h_core import Cohort, TaskSpec
from m3h_core.cohort import TRAIN
from m3h_core.embedders import EventSequences, LanguageEmbedder, SequenceEmbedder, VisionEmbedder
from m3h_core.embedders.hardware import autocast, on_gpu
from m3h_core.embedders.image_files import read_image
from m3h_core.embedders.timeseries import STATISTICS
from m3h_core.embedders.timeseries import statistics as series_statistics
from m3h_core.linear import fit_ridge
from m3h_core.metrics import interval, weighted_auroc
from m3h_pipeline.features.items import modality_items, take
from m3h_pipeline.sources.tasks_file import read_tasks

SNAPSHOT = Path("snapshots") / "2026-01-01"
# What the demo hospital's story (m3h_pipeline/demo) says each modality knows.
DRIVEN = {
    "timeseries": (
        "acute_kidney_injury",
        "chronic_kidney_disease",
        "cirrhosis",
        "anemia",
        "thrombocytopenia",
        "sepsis",
        "respiratory_failure",
    ),
    "language": ("tobacco_use_disorder", "gout", "osteoarthritis", "depression", "anxiety"),
    "vision": ("pleural_effusion", "heart_failure", "valve_disease"),
}
WORDS = re.split(
    " ",
    "patient reports pain in the chest on exertion no fever cough shortness of breath left lower "
    "lobe effusion heart size is normal there is a small opacity unchanged since prior study "
    "history of hypertension diabetes kidney disease on metoprolol lisinopril denies smoking "
    "drinks wine lives alone walks with cane knee replacement gout",
)


# Data ---------------------------------------------------------------------------------------------


def notes(n: int, lengths: np.ndarray, seed: int = 0) -> list[list[tuple[float, str]]]:
    """One note a sample, of so many words each."""
    rng = np.random.default_rng(seed)
    return [
        [(-1.0, f"{seed} {i} " + " ".join(rng.choice(WORDS, size)))]
        for i, size in zip(range(n), lengths, strict=True)
    ]


def mixed(n: int, seed: int = 0) -> np.ndarray:
    """Lengths as hospitals have them: most notes short, some very long."""
    return np.clip(np.random.default_rng(seed).lognormal(4.3, 0.9, n), 8, 2000).astype(int)


def image_files(
    n: int, folder: Path, size: int = 448, prefix: str = ""
) -> list[list[tuple[float, str, str]]]:
    """One JPEG a sample; they differ by a few bytes after the picture, so that drawing them takes
    no time.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    pictures = []
    for _ in range(20):
        cx, cy = rng.uniform(0.3, 0.7, 2)
        gray = (
            120 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.1)
            + 60
            + 12 * rng.normal(size=x.shape)
        )
        stream = io.BytesIO()
        Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        pictures.append(stream.getvalue())
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i in range(n):
        file = folder / f"{prefix}{i}.jpg"
        file.write_bytes(pictures[i % 20] + f"{prefix}{i}".encode())
        os.utime(file, (1e9, 1e9))
        files.append([(-1.0, "PA", str(file))])
    return files


# Measuring ----------------------------------------------------------------------------------------


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one run, all threads together."""
    started = time.process_time()
    work()
    return time.process_time() - started


def medians(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of works that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(cpu_seconds(work))
    return {name: statistics.median(values) for name, values in taken.items()}


def against(value: float, limit: float, at_most: bool = False) -> str:
    """A ratio beside its limit; one that misses it is marked."""
    missed = value > limit if at_most else value < limit
    return (
        f"{value:.2f} (limit {'at most ' if at_most else ''}{limit:g}){' MISSED' if missed else ''}"
    )


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
        "\nvision (mobilenetv3_small, JPEG)   ms an image: decode, forward, embedder; (decode + "
        "forward) / embedder"
    )
    items = image_files(512, scratch / "images")
    files = [row[0][2] for row in items]
    weights = scratch / "weights.safetensors"
    from safetensors.torch import save_model

    save_model(VisionEmbedder().encoder.load(), str(weights))
    for name, file in (("adapted, 128 px", None), ("weights, 224 px", weights)):
        embedder = VisionEmbedder(weights=file).fit(items[:64])
        batch = torch.from_numpy(
            np.stack([read_image(file, embedder.image_size) for file in files[:32]])
        )

        def forward(embedder: VisionEmbedder = embedder, batch: torch.Tensor = batch) -> None:
            with torch.inference_mode():
                for _ in range(len(files) // 32):
                    embedder._finish(embedder.encoder.raw(batch).numpy())

        taken = medians(
            {
                "decode": lambda e=embedder: [read_image(file, e.image_size) for file in files],
                "forward": forward,
                "embedder": lambda e=embedder: e.transform(items),
            },
            repeats,
        )
        ratio = (taken["decode"] + taken["forward"]) / taken["embedder"]
        costs = "".join(f"{1000 * seconds / len(files):>7.2f}" for seconds in taken.values())
        print(f"{name:<18}{costs}   {against(ratio, 0.9)}", flush=True)


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
            f"{name:<18}{first:>12.1f}{second:>14.3f}   {ratio}; {embedder.computed} of {len(more)}",
            flush=True,
        )


def measure_memory(scratch: Path) -> None:
    """Print the job's largest resident size, MiB, on 1,000 and 20,000 items."""
    print("\nmemory          MiB at 1,000 and 20,000 items; the second over the first")
    checkpoint = _small_checkpoint(scratch / "checkpoint")
    options = {
        "language": {"checkpoint": str(checkpoint)},
        "vision": {"image_size": 64},
        "timeseries": {"learned": False},
    }
    for modality in ("language", "vision", "timeseries"):
        sizes = [_job_memory(modality, n, options[modality], scratch) for n in (1_000, 20_000)]
        print(
            f"{modality:<14}{sizes[0]:>7.0f}{sizes[1]:>7.0f}   "
            f"{against(sizes[1] / sizes[0], 1.2, at_most=True)}",
            flush=True,
        )


def _small_checkpoint(folder: Path) -> Path:
    """A random transformer of one layer with MiniLM's vocabulary and width."""
    tokenizer, _ = LanguageEmbedder().encoder.load()
    from transformers import BertConfig, BertModel  # isort: skip  (after the guard of torchvision)

    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=6,
        intermediate_size=384,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def _job_memory(modality: str, n: int, options: dict[str, Any], scratch: Path) -> float:
    folder = scratch / f"{modality}-{n}"
    apart(_write_inputs, modality, n, folder)
    job = {
        "modality": modality,
        "inputs": str(folder),
        "options": options,
        "cache": str(folder / "cache"),
        "cache_bytes": 10**10,
        "to": str(folder),
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [
        sys.executable,
        "-m",
        "m3h_pipeline.jobs.embed",
        "--config",
        str(folder / "job.json"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the {modality} job failed")
    return usage.ru_maxrss / 1024


def apart(work: Callable[..., Any], *values: Any) -> None:
    """Do it in a process of its own: the system takes the memory of whoever starts a process for
    its child's.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(work, *values).result()


def _write_inputs(modality: str, n: int, folder: Path) -> None:
    folder.mkdir()
    ids = [f"{i:06d}" for i in range(n)]
    pl.DataFrame(
        {"sample_id": ids, "subject_id": ids, "split": [TRAIN if i % 2 else 3 for i in range(n)]}
    ).write_parquet(folder / "samples.parquet")
    rng = np.random.default_rng(0)
    if modality == "timeseries":
        table = {
            "sample_id": np.repeat(ids, 100),
            "code": np.tile([f"signal_{i % 40:02d}" for i in range(100)], n),
            "hours": -rng.random(100 * n) * 24,
            "value": rng.normal(size=100 * n),
        }
    elif modality == "language":
        texts = [row[0][1] for row in notes(n, np.full(n, 60))]
        table = {"sample_id": ids, "hours": np.full(n, -1.0), "note_id": ids, "text": texts}
    else:
        files = [row[0] for row in image_files(n, folder / "images", size=96)]
        table = {
            "sample_id": ids,
            "hours": np.full(n, -1.0),
            "image_id": ids,
            "view": ["PA"] * n,
            "path": [file for _, _, file in files],
        }
    pl.DataFrame(table).write_parquet(folder / f"{modality}.parquet", row_group_size=4096)


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

    taken = medians({"loop": loop, "ours": lambda: series_statistics(events, codes)}, repeats)
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
    vision = VisionEmbedder(model="resnet50", image_size=224).fit(images[:500])
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


def measure_probe(out: Path) -> None:
    """Print the probes' mean AUROC over the tasks that each modality drives."""
    if not (out / SNAPSHOT / "cohort" / "step.json").exists():
        subprocess.run(
            [
                sys.executable,
                "-m",
                "m3h_pipeline.cli.main",
                "run",
                "--source",
                "demo",
                "--out",
                str(out),
            ],
            check=True,
        )
    cohort = Cohort.load(out / SNAPSHOT / "cohort")
    tasks = [task for task in read_tasks(out / SNAPSHOT / "cohort") if task.problem == "binary"]
    vectors = {name: (cohort.embeddings[name], cohort.present[name]) for name in cohort.embeddings}
    items = modality_items("timeseries", out / SNAPSHOT / "inputs")
    learned = SequenceEmbedder()
    seconds = cpu_seconds(lambda: learned.fit(take(items, cohort.rows(TRAIN))))
    vectors["learned series"] = learned.transform(items)
    explained = learned.report["variance of hidden values explained"]
    draws = _resamples(cohort)
    print(
        f"\nprobe: {len(cohort.rows(TRAIN))} training samples, {(cohort.split != TRAIN).sum()} for "
        "testing"
    )
    print(
        f"learned encoder: {seconds:.0f} s of training, explains {explained:.0%} of hidden values' "
        "variance"
    )
    modalities = ("tabular", "timeseries", "language", "vision")
    scored: dict[tuple[str, ...], dict[str, np.ndarray]] = {}

    def score(*names: str) -> dict[str, np.ndarray]:
        if names not in scored:
            scored[names] = _probe(cohort, tasks, [vectors[name] for name in names], draws)
        return scored[names]

    def line(
        label: str, which: tuple[str, ...] | None, a: tuple[str, ...], b: tuple[str, ...]
    ) -> None:
        chosen = which or tuple(task.name for task in tasks)
        first = np.mean([score(*a)[name] for name in chosen], axis=0)
        second = np.mean([score(*b)[name] for name in chosen], axis=0)
        low, high = interval(first[1:] - second[1:])
        difference = f"{first[0] - second[0]:+.3f} [{low:+.3f}, {high:+.3f}]" + (
            "" if low > 0 else "  (0 is inside)"
        )
        print(
            f"{label:<44}{len(chosen):>3}{first[0]:>8.3f}{second[0]:>8.3f}  {difference}",
            flush=True,
        )

    print(f"{'':<44}{'n':>3}{'first':>8}{'second':>8}  first minus second [95%]")
    for modality in modalities[1:]:
        line(
            f"tabular + {modality} against tabular",
            DRIVEN[modality],
            ("tabular", modality),
            ("tabular",),
        )
    for modality in modalities:
        line(f"all four against {modality}", None, modalities, (modality,))
    pair = ("tabular", "timeseries"), ("tabular", "learned series")
    line("statistics against learned (+ tabular)", DRIVEN["timeseries"], *pair)
    line("statistics against learned (+ tabular)", None, *pair)
    line(
        "both against statistics (+ tabular)",
        None,
        ("tabular", "timeseries", "learned series"),
        pair[0],
    )


def _resamples(cohort: Cohort, n: int = 1000) -> np.ndarray:
    """How often each sample outside train counts: once each, then in n resamples of the patients;
    [1 + n, N].
    """
    rows = np.flatnonzero(cohort.split != TRAIN)
    _, subject = np.unique(np.asarray(cohort.subject_ids)[rows], return_inverse=True)
    rng = np.random.default_rng(0)
    weights = np.zeros((1 + n, len(cohort)), np.float32)
    weights[0, rows] = 1
    for draw in range(n):
        counts = np.bincount(
            rng.integers(0, subject.max() + 1, subject.max() + 1), minlength=subject.max() + 1
        )
        weights[1 + draw, rows] = counts[subject]
    return weights


def _probe(
    cohort: Cohort,
    tasks: list[TaskSpec],
    parts: list[tuple[np.ndarray, np.ndarray]],
    draws: np.ndarray,
) -> dict[str, np.ndarray]:
    """AUROC [1 + draws] of each task outside train, of a ridge regression on some modalities, each
    counted alike.
    """
    train = cohort.split == TRAIN
    blocks = []
    for vectors, present in parts:
        block = np.column_stack([np.where(present[:, None], vectors, 0), ~present]).astype(
            np.float64
        )
        spread = block[train].std(0)
        blocks.append(
            (block - block[train].mean(0))
            / np.where(spread > 1e-6, spread, np.inf)
            / block.shape[1] ** 0.5
        )
    x = np.concatenate(blocks, axis=1)
    scores = {}
    for task in tasks:
        label = np.asarray(cohort.labels[task.name])
        labelled = np.asarray(cohort.labelled[task.name])
        ridge = fit_ridge(x[train & labelled], label[train & labelled][:, None])
        rows = np.flatnonzero(labelled & ~train)
        scores[task.name] = weighted_auroc(label[rows] > 0.5, ridge(x[rows])[:, 0], draws[:, rows])
    return scores


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "language": lambda options, _: measure_language(options.repeats),
    "vision": lambda options, scratch: measure_vision(options.repeats, scratch),
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
