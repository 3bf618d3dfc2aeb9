"""Run by test_ray.py, with a folder, in a network of its own: a Ray cluster of two nodes, of which
one is lost.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from launched import finish, materialize, prepared, serve_mlflow, step_of, wait_until

from m3h_core import FittedModel
from m3h_pipeline.jobs.embed import embed
from m3h_pipeline.state.steps import produce

SAMPLES = 600
WORDS = 80


def write_inputs(to: Path) -> dict:
    """Notes that take the encoder a while, one a sample."""
    ids = [f"s{i:04d}" for i in range(SAMPLES)]
    split = [i % 4 for i in range(SAMPLES)]
    rng = np.random.default_rng(0)
    words = np.array(["ba", "ke", "lu", "mo", "gan", "hol"])
    texts = [" ".join(rng.choice(words, WORDS)) for _ in ids]
    pl.DataFrame({"sample_id": ids, "subject_id": ids, "split": split}).write_parquet(
        to / "samples.parquet"
    )
    notes = {
        "sample_id": ids,
        "hours": [-1.0] * SAMPLES,
        "note_id": ids,
        "kind": ["x"] * SAMPLES,
        "text": texts,
    }
    pl.DataFrame(notes).write_parquet(to / "language.parquet")
    return {}


def main() -> None:
    from ray.cluster_utils import Cluster

    folder = Path(sys.argv[1])
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True}
    )
    other = cluster.add_node(num_cpus=1)
    address = f"http://{cluster.head_node.webui_url}"
    with serve_mlflow(folder) as uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri
        asked = {
            "kind": "ray",
            "storage": str(folder),
            "cpus": 1,
            "memory_gb": 1,
            "python": sys.executable,
            "ray": {"address": address},
        }
        wrong = prepared(folder / "wrong", launcher=asked, embedding={"language": "/nowhere"})
        produce(step_of(wrong, "inputs"), "given", write_inputs)
        assert materialize(wrong, "language_embedding").wait(150) == 1
        print(f"a mistake: {(wrong / 'run.log').read_text().splitlines()[-1]}")
        out = prepared(folder / "out", launcher=asked, training={"epochs": 10})
        produce(step_of(out, "inputs"), "given", write_inputs)
        started = time.monotonic()
        run = materialize(out, "language_embedding")
        cache = out / "cache" / "embeddings"
        wait_until(
            lambda: list(cache.glob("language-*/*.safetensors")) or run.poll() is not None,
            seconds=150,
        )
        assert run.poll() is None, (out / "run.log").read_text()[-6000:]
        written = len(list(cache.glob("language-*/*.safetensors")))
        cluster.remove_node(other, allow_graceful=False)
        finish(run, out)
        print(
            f"embedding: a node was lost after {written} parts, whole after "
            f"{time.monotonic() - started:.0f} s"
        )
        info = json.loads((step_of(out, "language_embedding") / "step.json").read_text())["info"]
        assert info["items computed"] >= SAMPLES, info
        assert info["present"] == SAMPLES, info
        started = time.monotonic()
        finish(materialize(out, "m3h_model"), out)
        FittedModel.load(step_of(out, "m3h_model") / "model" / "0")
        print(f"training: {time.monotonic() - started:.0f} s")
    cluster.shutdown()
    alone = folder / "alone"
    alone.mkdir()
    job = {
        "modality": "language",
        "inputs": str(step_of(out, "inputs")),
        "options": {},
        "to": str(alone),
    }
    embed(job | {"cache": str(folder / "cache"), "cache_bytes": 10**9}, lambda _: None)
    file = "embedding.safetensors"
    assert (alone / file).read_bytes() == (step_of(out, "language_embedding") / file).read_bytes()
    print("the vectors are those of one machine")


if __name__ == "__main__":
    main()
