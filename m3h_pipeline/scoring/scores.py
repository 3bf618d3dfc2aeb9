"""The champion's scores: of whom, from which raw inputs, and in what form they are kept.

Nothing here imports m3h_core: the job that scores takes that of the registered model itself.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl

from m3h_pipeline.state.database import quote_literal
from m3h_pipeline.state.locks import hold_lock
from m3h_pipeline.state.permissions import create_private_file

if TYPE_CHECKING:
    import pandas as pd

FILE = "scores.parquet"
DATABASE = "scores.duckdb"
# Within a snapshot: the scores of versions that nobody approved.
TRIAL = "trial_scores"
# One row a sample and task; of multiclass and clustering tasks one a class or cluster.
SCHEMA: dict[str, Any] = {
    "sample_id": pl.String,
    "subject_id": pl.String,
    "task": pl.String,
    "problem": pl.String,
    "class": pl.String,
    "prediction": pl.Float64,
    "calibrated": pl.Boolean,
    "low": pl.Float64,
    "high": pl.Float64,
    "set": pl.List(pl.String),
    "coverage": pl.Float64,
    "distance": pl.Float64,
    "lacks": pl.List(pl.String),
    "still_in": pl.Boolean,
    "new": pl.Boolean,
    "model_version": pl.String,
    "snapshot": pl.String,
}


def select_samples(samples: Path, learned: Path | None, everyone: bool) -> pl.DataFrame:
    """Who is scored: sample_id, subject_id, still_in, new.

    Those still in hospital, those that are ``new`` to the model, and those that it learned from
    before they were discharged, whose labels may have come since. ``samples``: the validated table;
    ``learned``: that of the snapshot that the model learned from (None: not there, so nobody counts
    as new). ``everyone``: all with a prediction time.
    """
    frame = pl.read_parquet(
        samples, columns=["sample_id", "subject_id", "prediction_time", "discharge_time"]
    )
    frame = frame.filter(pl.col("prediction_time").is_not_null()).sort("sample_id")
    nobody = pl.DataFrame(schema={"sample_id": pl.String, "discharge_time": pl.Datetime})
    before = nobody if learned is None else pl.read_parquet(learned, columns=nobody.columns)
    was_in = before.filter(pl.col("discharge_time").is_null())["sample_id"].implode()
    frame = frame.with_columns(
        still_in=pl.col("discharge_time").is_null(),
        new=~pl.col("sample_id").is_in(before["sample_id"].implode()) & pl.lit(learned is not None),
    )
    if not everyone:
        frame = frame.filter(pl.col("still_in") | pl.col("new") | pl.col("sample_id").is_in(was_in))
    return frame.select("sample_id", "subject_id", "still_in", "new")


def to_long_form(
    scored: pd.DataFrame, who: pl.DataFrame, tasks: Sequence[Any], calibrated: Collection[str]
) -> pl.DataFrame:
    """A model's output for the samples ``who`` (as `select_samples` gives them), a row each, in the
    columns of `SCHEMA`.

    ``tasks``: the model's; ``calibrated``: names of those whose probabilities are. Output of format
    1 leaves nulls.
    """

    def column(name: str) -> Any:
        return scored[name].tolist() if name in scored else None

    parts = []
    for task in tasks:
        classes = task.class_names if task.problem in ("multiclass", "clustering") else (None,)
        for label in classes:
            of_class = "" if label is None else f"/{label}"
            values = {
                "task": task.name,
                "problem": task.problem,
                "class": label,
                "prediction": column(f"{task.name}{of_class}"),
                "calibrated": task.name in calibrated,
                "low": column(f"{task.name}.low"),
                "high": column(f"{task.name}.high"),
                "set": column(f"{task.name}.set"),
                "coverage": None if task.problem == "clustering" else column("coverage"),
                "distance": column(f"{task.name}.distance{of_class}"),
                "lacks": column("lacks"),
            }
            rows = [
                pl.Series(
                    name, value if isinstance(value, list) else [value] * len(who), SCHEMA[name]
                )
                for name, value in values.items()
            ]
            parts.append(
                who.with_columns(rows).with_columns(
                    pl.col("prediction", "low", "high").fill_nan(None)
                )
            )
    return pl.concat(parts) if parts else who.clear()


def write_scores(
    parts: Sequence[pl.DataFrame], to: Path, *, version: str | None, snapshot: str
) -> None:
    """Write ``to/scores.parquet``, readable by its owner alone."""
    create_private_file(to / FILE)
    frame = pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA)
    frame = frame.with_columns(
        pl.lit(version, pl.String).alias("model_version"),
        pl.lit(snapshot, pl.String).alias("snapshot"),
    )
    frame.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()).write_parquet(to / FILE)


def publish_scores(out: Path, scores: Path) -> None:
    """Put the scores of a snapshot by one version where people look for them, in the place of
    earlier ones of theirs.

    ``<out>/latest/scores.parquet`` holds these alone; the table ``scores`` of
    ``<out>/scores.duckdb`` all nights'.
    """
    latest = out / "latest"
    latest.mkdir(exist_ok=True)
    partial = latest / f".{FILE}.partial"
    create_private_file(partial)
    partial.write_bytes(scores.read_bytes())
    partial.replace(latest / FILE)
    added = f"FROM read_parquet({quote_literal(scores)})"
    _rewrite(
        out,
        f"WHERE (snapshot, model_version) NOT IN (SELECT (snapshot, model_version) {added})",
        added,
    )


def erase_subjects(out: Path, subjects: Container[str]) -> int:
    """Take forgotten patients out of the table of all nights' scores; returns how many rows there
    were.

    The table outlives its snapshots, so its own column says whose a row is.
    """
    # What a killed run left.
    for partial in (out / f".{DATABASE}.partial", out / "latest" / f".{FILE}.partial"):
        partial.unlink(missing_ok=True)
    rows = {subject: n for subject, n in _subjects(out).items() if subject in subjects}
    if rows:
        _rewrite(out, f"WHERE subject_id NOT IN ({', '.join(map(quote_literal, sorted(rows)))})")
    return sum(rows.values())


def drop_snapshot(out: Path, label: str) -> int:
    """Take a snapshot out of the table of all nights' scores; returns how many rows it had
    there.
    """
    if not (out / DATABASE).exists():
        return 0
    with duckdb.connect(out / DATABASE, read_only=True) as database:
        counted = database.execute(
            "SELECT count(*) FROM scores WHERE snapshot = ?", [label]
        ).fetchone()
    rows = counted[0] if counted else 0
    if rows:
        _rewrite(out, f"WHERE snapshot <> {quote_literal(label)}")
    return rows


def has_scored(out: Path, subject_id: str) -> bool:
    """Whether a patient is in the table of all nights' scores."""
    return subject_id in _subjects(out)


def _subjects(out: Path) -> dict[str, int]:
    """How many rows of the table are whose."""
    if not (out / DATABASE).exists():
        return {}
    with duckdb.connect(out / DATABASE, read_only=True) as database:
        return dict(
            database.execute(
                "SELECT subject_id, count(*) FROM scores GROUP BY subject_id"
            ).fetchall()
        )


def _rewrite(out: Path, kept: str, added: str = "") -> None:
    """Write the table anew and swap the file: readers never wait or fail, and what was taken out
    leaves no bytes.
    """
    file = out / DATABASE
    partial = out / f".{DATABASE}.partial"
    with hold_lock(out / f".{DATABASE}.lock"):
        partial.unlink(missing_ok=True)
        with duckdb.connect(partial) as database:
            partial.chmod(0o600)
            parts = [added] if added else []
            if file.exists():
                database.execute(f"ATTACH {quote_literal(file)} AS old (READ_ONLY)")
                parts.insert(0, f"FROM old.scores {kept}")
            database.execute(f"CREATE TABLE scores AS {' UNION ALL BY NAME '.join(parts)}")
        os.replace(partial, file)
