"""From the as-of input files to what an embedder takes, in the order of ``samples.parquet``.

Notes and events are read from disk when an embedder asks for them, so that memory does not grow
with their number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from m3h_core.embedders import EventSequences, LanguageEmbedder, VisionEmbedder, erase
from m3h_core.embedders.tabular import CODES

MODALITIES = ("tabular", "timeseries", "language", "vision")
# What names an item of a modality whose items can be unreadable.
ITEM_IDS = {"language": "note_id", "vision": "image_id"}


def is_given(modality: str, inputs: Path) -> bool:
    """Whether the hospital gives this modality as vectors of its own."""
    return _given_file(modality, inputs).exists()


def _given_file(modality: str, inputs: Path) -> Path:
    return inputs / f"given_{modality}.parquet"


def modality_items(modality: str, inputs: Path) -> Any:
    """The items of every sample: see m3h_core.embedders for their form in each modality."""
    order = pl.read_parquet(inputs / "samples.parquet", columns=["sample_id"])["sample_id"]
    if is_given(modality, inputs):
        vectors = pl.read_parquet(_given_file(modality, inputs))
        frame = order.to_frame().join(vectors, on="sample_id", how="left", maintain_order="left")
        return [None if vector is None else vector.to_numpy() for vector in frame["vector"]]
    file = inputs / f"{modality}.parquet"
    if modality == "tabular":
        frame = order.to_frame().join(
            pl.read_parquet(file), on="sample_id", how="left", maintain_order="left"
        )
        items: dict[str, Any] = {
            name: _column(frame[name])
            for name in frame.columns
            if name not in ("sample_id", "split")
        }
        codes = inputs / f"{CODES}.parquet"
        if codes.exists() and pq.ParquetFile(codes).metadata.num_rows:
            items[CODES] = EventsOnDisk(codes, order)
        return items
    if modality == "timeseries":
        return EventsOnDisk(file, order)
    return ItemsOnDisk(
        file, order, {"language": ["hours", "text"], "vision": ["hours", "view", "path"]}[modality]
    )


def take(items: Any, rows: np.ndarray) -> Any:
    """The items of some rows, in their order."""
    if isinstance(items, dict):
        return {
            name: values.take(rows) if name == CODES else values[rows]
            for name, values in items.items()
        }
    if isinstance(items, list):
        return [items[row] for row in rows]
    return items.take(rows)


def item_ids(modality: str, inputs: Path, places: Sequence[tuple[int, int]]) -> pl.DataFrame:
    """``sample_id`` and ``item`` (a note's or an image's id) of items given as (row of the sample,
    place in it).
    """
    order = pl.read_parquet(inputs / "samples.parquet", columns=["sample_id"])["sample_id"]
    ids = ItemsOnDisk(inputs / f"{modality}.parquet", order, [ITEM_IDS[modality]])
    return pl.DataFrame(
        [(order[row], ids[row][place][0]) for row, place in places],
        schema={"sample_id": pl.String, "item": pl.String},
        orient="row",
    )


def erase_subjects(cache: Path, inputs: Path, subjects: Collection[str]) -> int:
    """Take the notes and images of some patients out of the embedding cache; returns how many rows
    there were.

    ``inputs`` is the folder of as-of inputs (of one snapshot) that still holds these patients: call
    this before they are erased there, once a snapshot, while no embedding job runs. An equal text
    of another patient shares its vector, and is embedded again. What was fitted on any image is
    dropped too, for it may have seen the erased ones.
    """
    if not cache.is_dir():
        return 0
    samples = pl.scan_parquet(inputs / "samples.parquet").filter(
        pl.col("subject_id").is_in(list(subjects))
    )
    of_subjects = samples.select("sample_id")
    language = LanguageEmbedder()
    vision = VisionEmbedder()
    vision.cache = cache
    keys: set[bytes | None] = set()
    for modality, column, key in (
        ("language", "text", language.content_key),
        ("vision", "path", vision.content_key),
    ):
        if not (inputs / f"{modality}.parquet").exists():
            continue
        records = pl.scan_parquet(inputs / f"{modality}.parquet").select("sample_id", column)
        keys |= {
            key(value)
            for value in records.join(of_subjects, on="sample_id").collect()[column]
            if value
        }
    return erase(cache, [key for key in keys if key is not None])


class _OnDisk:
    """A Parquet file whose rows of one sample lie together, and where those of each sample are."""

    def __init__(self, file: Path, order: pl.Series) -> None:
        self._file = pq.ParquetFile(file)
        groups = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        self._group_starts = np.cumsum([0, *groups])
        # Streamed, so that what is held grows with the samples alone.
        rows = (
            pl.scan_parquet(file).select("sample_id").with_row_index("start").group_by("sample_id")
        )
        runs = rows.agg(
            pl.col("start").min().cast(pl.Int64), pl.len().cast(pl.Int64).alias("count")
        )
        placed = order.to_frame("sample_id").join(
            runs.collect(engine="streaming"), on="sample_id", how="left", maintain_order="left"
        )
        self.starts, self.counts = (
            placed[name].fill_null(0).to_numpy() for name in ("start", "count")
        )
        self._row_group: tuple[int, pl.DataFrame] = (-1, pl.DataFrame())

    def take(self, rows: np.ndarray) -> Self:
        """Of some samples, in their order."""
        some = object.__new__(type(self))
        some.__dict__ = self.__dict__ | {"starts": self.starts[rows], "counts": self.counts[rows]}
        return some

    def __len__(self) -> int:
        return len(self.starts)

    def _rows(self, start: int, count: int, columns: list[str]) -> pl.DataFrame:
        """Some rows of the file, read a row group at a time; the last one is held."""
        parts: list[pl.DataFrame] = []
        group = int(np.searchsorted(self._group_starts, start, side="right")) - 1
        while count > 0:
            if self._row_group[0] != group:
                self._row_group = (
                    group,
                    pl.DataFrame(self._file.read_row_group(group, columns=columns)),
                )
            part = self._row_group[1].slice(start - int(self._group_starts[group]), count)
            parts.append(part)
            start = start + len(part)
            count = count - len(part)
            group = group + 1
        return pl.concat(parts)


class ItemsOnDisk(_OnDisk, Sequence):
    """N lists of tuples, read when asked for; best asked in order."""

    def __init__(self, file: Path, order: pl.Series, columns: list[str]) -> None:
        super().__init__(file, order)
        self._columns = columns

    def __getitem__(self, row: Any) -> list[tuple[Any, ...]]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        start = int(self.starts[row])
        count = int(self.counts[row])
        return self._rows(start, count, self._columns).rows() if count else []


class EventsOnDisk(_OnDisk):
    """The time-stamped values of N samples, fetched when asked for: see
    m3h_core.embedders.events.Events.
    """

    def __init__(self, file: Path, order: pl.Series) -> None:
        super().__init__(file, order)
        codes = pl.scan_parquet(file).select(pl.col("code").unique()).collect(engine="streaming")
        self.codes: list[str] = codes["code"].sort().to_list()

    @property
    def n(self) -> int:
        """How many samples there are."""
        return len(self)

    def load(self) -> EventSequences:
        """All of them in memory."""
        used = np.flatnonzero(self.counts)
        columns = ["code", "hours", "value"]
        parts = [self._rows(int(self.starts[i]), int(self.counts[i]), columns) for i in used]
        frame = (
            pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(columns, pl.Float64))
        )
        code = frame["code"].replace_strict(
            self.codes, range(len(self.codes)), return_dtype=pl.Int64
        )
        return EventSequences(
            sample=np.repeat(np.arange(len(self)), self.counts),
            code=code.to_numpy(),
            hours=frame["hours"].to_numpy(),
            value=frame["value"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
            n=len(self),
            codes=self.codes,
        )


def _column(values: pl.Series) -> np.ndarray:
    if values.dtype.is_numeric():
        return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.array(values.to_list(), dtype=object)
