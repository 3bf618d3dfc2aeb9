"""One modality's raw items to vectors: tabular, timeseries, language, vision.

The forms of the items, for N samples in order:

- tabular: {column: [N]}, numbers (NaN or None is missing) or strings (None or "" is missing), and
  ``codes``, where there are any: records of codes, as a time series has them
- timeseries: `EventSequences`, or what loads them (`m3h_core.embedders.events.Events`)
- language: N lists of (hours, text)
- vision: N lists of (hours, view, path or bytes)
- any of them, given as vectors: N vectors, or None (`GivenEmbedder`)

Hours count from the prediction time and are never above 0. Importing this package loads neither
torch, transformers, timm nor scikit-learn: an encoder loads them when it is first used.

N lists may be any sequence: it is read in order, a block of samples at a time. With a ``cache``
(`store`) notes and images are embedded once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from m3h_core.embedders.absent import AbsentEmbedder
from m3h_core.embedders.base import Embedder, read_about
from m3h_core.embedders.events import EventSequences
from m3h_core.embedders.given import GivenEmbedder
from m3h_core.embedders.language import LanguageEmbedder
from m3h_core.embedders.sequence import SequenceEmbedder
from m3h_core.embedders.series import SeriesEmbedder
from m3h_core.embedders.store import erase, prune
from m3h_core.embedders.tabular import TabularEmbedder
from m3h_core.embedders.timeseries import TimeseriesEmbedder
from m3h_core.embedders.vision import VisionEmbedder

__all__ = [
    "EMBEDDERS",
    "AbsentEmbedder",
    "Embedder",
    "EventSequences",
    "GivenEmbedder",
    "LanguageEmbedder",
    "SequenceEmbedder",
    "SeriesEmbedder",
    "TabularEmbedder",
    "TimeseriesEmbedder",
    "VisionEmbedder",
    "embedder_class",
    "erase",
    "load_embedder",
    "prune",
]

# The default embedder of each modality.
EMBEDDERS: dict[str, type[Embedder]] = {
    "tabular": TabularEmbedder,
    "timeseries": TimeseriesEmbedder,
    "language": LanguageEmbedder,
    "vision": VisionEmbedder,
}

# Those that can be chosen in their place, by name; made with ``min_rows``: what fewer rows hold is
# not kept.
_OTHERS: tuple[type[Embedder], ...] = (SequenceEmbedder,)
_CLASSES = {
    cls.__name__: cls
    for cls in (*EMBEDDERS.values(), *_OTHERS, AbsentEmbedder, GivenEmbedder, SeriesEmbedder)
}


def embedder_class(modality: str, name: str) -> Callable[..., Embedder]:
    """The class of a name that takes the place of a modality's default. Raises ValueError where
    there is none.

    >>> embedder_class("timeseries", "SequenceEmbedder").__name__
    'SequenceEmbedder'
    """
    names = [cls.__name__ for cls in _OTHERS if cls.modality == modality]
    if name not in names:
        raise ValueError(
            f"there is no other encoder {name!r} of {modality!r}; known are: "
            f"{', '.join(names) or 'none'}"
        )
    return _CLASSES[name]


def load_embedder(folder: str | Path) -> Embedder:
    """Read any saved embedder. Raises ValueError where the folder holds none that this version
    knows.
    """
    name = read_about(folder)["class"]
    if name not in _CLASSES:
        raise ValueError(f"{folder} holds a {name}, which this version does not know")
    return _CLASSES[name].load(folder)
