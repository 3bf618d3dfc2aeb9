"""The encoders that m3h.toml names: how each is made, and whether it can be had.

``python -m m3h_pipeline.jobs.encoders OPTIONS`` loads encoders, given as JSON (modality ->
options), and ends with what is wrong with one.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Any

from m3h_core.embedders import (
    EMBEDDERS,
    Embedder,
    SequenceEmbedder,
    TabularEmbedder,
    TimeseriesEmbedder,
    embedder_class,
)
from m3h_pipeline.config import EmbeddingConfig
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.items import MODALITIES
from m3h_pipeline.wording import MIN_GROUP_SIZE

_REFUSED = 3


def encoder_options(modality: str, settings: EmbeddingConfig) -> dict[str, Any]:
    """What a modality's encoder is made with."""
    if modality in settings.encoders:
        return {"encoder": settings.encoders[modality]}
    if modality == "language":
        return {"checkpoint": settings.language, "revision": settings.language_revision or None}
    if modality == "vision":
        return {
            "model": settings.vision,
            "weights": settings.vision_weights or None,
            "image_size": settings.image_size or None,
        }
    if modality == "timeseries":
        return {"learned": settings.timeseries == "learned"}
    return {}


def new_embedder(modality: str, options: dict[str, Any]) -> Embedder:
    """An embedder that keeps the value of no few patients: it goes into the registry."""
    if "encoder" in options:
        named: Any = embedder_class(modality, options["encoder"])
        return named(min_rows=MIN_GROUP_SIZE)
    if "learned" in options:
        kind = SequenceEmbedder if options["learned"] else TimeseriesEmbedder
        return kind(
            min_rows=MIN_GROUP_SIZE,
            **{name: value for name, value in options.items() if name != "learned"},
        )
    if modality == "tabular":
        return TabularEmbedder(min_rows=MIN_GROUP_SIZE)
    return EMBEDDERS[modality](**options)


def check_encoders(settings: EmbeddingConfig) -> None:
    """Raise `InputError` where an encoder that was chosen in place of a default can't be had or
    loaded.

    Asked before data is read, not hours later when the encoder is needed. A checkpoint on the model
    hub is fetched.
    """
    usual = EmbeddingConfig()
    chosen = {}
    for modality in MODALITIES:
        options = encoder_options(modality, settings)
        if options != encoder_options(modality, usual):
            chosen[modality] = options
    if chosen:
        _load_elsewhere(json.dumps(chosen, sort_keys=True))


@functools.cache
def _load_elsewhere(chosen: str) -> None:
    """Load encoders in a process of its own: here they would hold memory, and a GPU's, for the
    whole run.
    """
    done = subprocess.run(
        [sys.executable, "-m", "m3h_pipeline.jobs.encoders", chosen],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode == _REFUSED:
        raise InputError(
            f"m3h.toml: [embedding] {done.stdout.strip()}. Mend the setting: nothing was read yet"
        )
    if done.returncode:
        raise RuntimeError(f"the encoders could not be checked: {done.stderr[-2000:]}")


def main() -> None:
    """Load each encoder; the first that can't be had is named on standard output."""
    for modality, options in json.loads(sys.argv[1]).items():
        try:
            new_embedder(modality, options).check()
        except ValueError as error:
            print(f"{modality}: {' '.join(str(error).split())}")
            sys.exit(_REFUSED)


if __name__ == "__main__":
    main()
