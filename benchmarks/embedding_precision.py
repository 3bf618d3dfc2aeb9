"""What bfloat16 gains and costs on a processor: notes and images against the same in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from embedding_clock import against, medians
from embedding_items import image_files, mixed, notes
from embedding_probe import DRIVEN, SNAPSHOT, probe, resample

from m3h_core import Cohort
from m3h_core.data.cohort import TRAIN
from m3h_core.embedders import Embedder, LanguageEmbedder, VisionEmbedder, hardware
from m3h_core.embedders.image_files import read_image
from m3h_core.metrics import interval
from m3h_pipeline.features.items import modality_items, take
from m3h_pipeline.sources.tasks_file import read_tasks

FORMATS = ("float32", "bfloat16")


def measure_precision(repeats: int, scratch: Path, out: Path | None) -> None:
    """Print speed and cosine, and with a run of the demo hospital the loss of a probe."""
    if hardware.precision() != "bfloat16" or hardware.on_gpu():
        print("\nprecision: skipped, this processor does not multiply in bfloat16")
        return
    _measure_speed(repeats, scratch)
    if out:
        _measure_probes(out)


def _in_format(name: str) -> Any:
    """A context in which encoders compute in this format."""
    return patch.object(hardware, "precision", return_value=name)


def _measure_speed(repeats: int, scratch: Path) -> None:
    print("\nprecision          bfloat16 over float32: speed; least cosine")
    language = LanguageEmbedder()
    texts = [text for [(_, text)] in notes(200, mixed(200))]
    tokens = language.encoder.tokenize(texts)
    vision = VisionEmbedder()
    files = [path for [(_, _, path)] in image_files(128, scratch / "images")]
    pictures = [read_image(file, vision.image_size) for file in files]
    batches = torch.from_numpy(np.stack(pictures)).split(vision.batch_size)
    cases = {
        "notes": lambda: language.encoder.embed_tokens(tokens),
        "images": lambda: _forward(vision, batches),
    }
    for name, work in cases.items():
        vectors = {}

        def run(number_format: str, work: Any = work, vectors: Any = vectors) -> None:
            with _in_format(number_format):
                vectors[number_format] = work()

        taken = medians({each: lambda each=each: run(each) for each in FORMATS}, repeats)
        first = vectors["float32"]
        second = vectors["bfloat16"]
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosine = ((first * second).sum(axis=1) / lengths).min()
        ratio = taken["float32"] / taken["bfloat16"]
        print(f"{name:<18} {against(ratio, 1.5)}; {cosine:.4f} (goal 0.99)", flush=True)


def _forward(vision: VisionEmbedder, batches: Sequence[torch.Tensor]) -> np.ndarray:
    with torch.inference_mode():
        features = [vision.encoder.features(batch) for batch in batches]
    return torch.cat(features).numpy()


def _measure_probes(out: Path) -> None:
    snapshot = out / SNAPSHOT
    cohort = Cohort.load(snapshot / "cohort")
    tasks = [task for task in read_tasks(snapshot / "cohort") if task.problem == "binary"]
    draws = resample(cohort)
    embedders: dict[str, type[Embedder]] = {"language": LanguageEmbedder, "vision": VisionEmbedder}
    print("\nprobe of a modality alone: tasks, float32, bfloat16, difference [95%]")
    for modality, embedder in embedders.items():
        items = modality_items(modality, snapshot / "inputs")
        scores = {}
        for number_format in FORMATS:
            with _in_format(number_format):
                fitted = embedder().fit(take(items, cohort.rows(TRAIN)))
                vectors = fitted.transform(items)
            scores[number_format] = probe(cohort, tasks, [vectors], draws)
        for chosen in (DRIVEN[modality], tuple(task.name for task in tasks)):
            first = np.mean([scores["float32"][name] for name in chosen], axis=0)
            second = np.mean([scores["bfloat16"][name] for name in chosen], axis=0)
            low, high = interval(second[1:] - first[1:])
            print(
                f"{modality:<18}{len(chosen):>3}{first[0]:>8.4f}{second[0]:>8.4f}  "
                f"{second[0] - first[0]:+.4f} [{low:+.4f}, {high:+.4f}]",
                flush=True,
            )
