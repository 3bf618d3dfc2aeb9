"""Forgetting a patient: out of every snapshot, cache and quarantine, and never in again.

``<out>/forgotten.json`` remembers who is to be left out: a keyed hash of each subject's id, never
the id. It is written before anything is erased, so an erasure that was killed is finished by the
next ``m3h forget`` or the next run. A new extraction leaves the same patients out, in one place,
whatever the source (`leave_out`).

A step is erased from as a whole: a copy is made beside it (of hard links, where files stay as they
are) and takes its place. Its key and version stay: nothing after it becomes stale, and nothing is
computed anew. Steps are taken from the last to the first, since the first ones say which stays and
samples are the patient's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from m3h_core import Cohort
from m3h_core.cohort import TEST
from m3h_pipeline import config as configuration
from m3h_pipeline.contracts.quarantine_csv import csv_beside, write_quarantine_csv
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry import versions as registry
from m3h_pipeline.registry.location import settle_location
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.state import lineage as lineages
from m3h_pipeline.state.data_files import read_json, write_arrays
from m3h_pipeline.state.locks import lock_exclusively
from m3h_pipeline.state.permissions import create_private_file
from m3h_pipeline.state.steps import clear_leftovers, discard_step, read_step, revise

FILE = "forgotten.json"
REASON = "forgotten on request"
_SOURCE = {"source_file": pl.String(), "source_row": pl.Int64()}
_KEYS = ("subject_id", "stay_id", "sample_id")
# Arrays with a row a sample, in the order of another step's samples.
_ALIGNED = {"embedding.safetensors": "inputs", "predictions.safetensors": "cohort"}
# Where a wrong row that names no known stay may still name its patient.
_NAMES = ("note_id", "image_id", "path")
_WORD = re.compile(r"[0-9A-Za-z]+")


@dataclass
class Forgotten:
    """The list of ``forgotten.json``: digest of a subject -> {"erased": bool, "models": versions
    that saw them}.
    """

    key: bytes
    subjects: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, out: Path) -> Forgotten:
        """The out-folder's list; a new, empty one where nobody was forgotten yet."""
        try:
            known = json.loads((out / FILE).read_text())
        except FileNotFoundError:
            return cls(secrets.token_bytes(32))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{out / FILE} is damaged: without it, forgotten patients come back; restore it"
            ) from error
        return cls(bytes.fromhex(known["key"]), known["subjects"])

    def save(self, out: Path) -> None:
        """Write the list, for its owner alone."""
        partial = out / f".{FILE}.partial"
        create_private_file(partial)
        partial.write_text(
            json.dumps({"key": self.key.hex(), "subjects": self.subjects}, indent=1) + "\n"
        )
        partial.replace(out / FILE)

    def digest(self, subject_id: str) -> str:
        """Keyed hash of an id."""
        return hashlib.blake2b(subject_id.encode(), key=self.key, digest_size=16).hexdigest()

    def __contains__(self, subject_id: str | None) -> bool:
        return subject_id is not None and self.digest(subject_id) in self.subjects

    @property
    def pending(self) -> bool:
        """Whether an erasure was begun and not finished."""
        return not all(entry["erased"] for entry in self.subjects.values())


@dataclass
class Theirs:
    """What is the forgotten patients' in an out-folder: their keys, and the list itself.

    ``known_stays``: stays of anybody; a row of no known stay is judged by what its own names say.
    """

    forgotten: Forgotten
    subjects: set[str] = field(default_factory=set)
    stays: set[str] = field(default_factory=set)
    samples: set[str] = field(default_factory=set)
    known_stays: set[str] = field(default_factory=set)

    def learn(self, keys: pl.DataFrame) -> None:
        """Take in a table of keys: some of subject_id, stay_id, sample_id."""
        if "stay_id" in keys.columns:
            self.known_stays.update(keys["stay_id"].drop_nulls())
        mine = keys.filter(
            pl.Series(
                [subject in self.forgotten for subject in keys["subject_id"]], dtype=pl.Boolean
            )
        )
        for name, known in zip(_KEYS, (self.subjects, self.stays, self.samples), strict=True):
            if name in mine.columns:
                known.update(mine[name].drop_nulls())

    def rows(self, table: pl.LazyFrame) -> pl.Expr | None:
        """True for their rows; None for a table that holds nobody's.

        A table says whose a row is by its keys, or, in quarantine, by those in the row's JSON.
        """
        schema = table.collect_schema()
        if "rule" in schema and "row" in schema:
            value = {
                name: pl.col("row").str.json_path_match(f"$.{name}") for name in (*_KEYS, *_NAMES)
            }
        else:
            value = {
                name: pl.col(name).cast(pl.String) for name in (*_KEYS, *_NAMES) if name in schema
            }
        found = [
            value[name].is_in(list(known)).fill_null(False)
            for name, known in zip(_KEYS, (self.subjects, self.stays, self.samples), strict=True)
            if name in value
        ]
        if not found:
            return None
        if "stay_id" in value and (names := [value[name] for name in _NAMES if name in value]):
            is_nobodys = ~value["stay_id"].is_in(list(self.known_stays)).fill_null(False)
            orphans = table.select(
                pl.concat_str(names, separator=" ", ignore_nulls=True).filter(is_nobodys)
            ).unique()
            named = [text for text in orphans.collect().to_series() if self._names(text)]
            text = pl.concat_str(names, separator=" ", ignore_nulls=True)
            found.append((is_nobodys & text.is_in(named)).fill_null(False))
        return pl.any_horizontal(found)

    def _names(self, text: str | None) -> bool:
        """Whether a word of a text is a forgotten subject's id; MIMIC's image folders put a p
        before it.
        """
        return any(
            word in self.forgotten or word.removeprefix("p") in self.forgotten
            for word in _WORD.findall(text or "")
        )


# A place outside the snapshots that holds patients' data (a cache): erases theirs below the
# out-folder, returns how many records went. It is called before the snapshots are erased, which
# still hold the patients' own records, and again where it was killed.
Place = Callable[[Path, Theirs], int]
PLACES: dict[str, Place] = {}


def _erase_embeddings(out: Path, theirs: Theirs) -> int:
    from m3h_pipeline.features.items import erase_subjects  # the encoders' package

    inputs = [file.parent for file in sorted(out.glob("snapshots/*/inputs/samples.parquet"))]
    return sum(
        erase_subjects(out / "cache" / "embeddings", folder, theirs.subjects) for folder in inputs
    )


PLACES["embedding cache"] = _erase_embeddings


def _erase_scores(out: Path, theirs: Theirs) -> int:
    return scoring.erase(out, theirs.forgotten)


PLACES["scores of all nights"] = _erase_scores


@dataclass(frozen=True)
class Erased:
    """What an erasure did: rows that went, by place; model versions that had learned from the
    patient.
    """

    rows: dict[str, int]
    models: list[dict[str, Any]]
    was_forgotten_before: bool


def forget(
    out: Path,
    subject_id: str,
    *,
    models: Callable[[], Sequence[Any]] = tuple,
    on_wait: Callable[[], object] = lambda: None,
) -> Erased:
    """Erase a patient from an out-folder and remember to leave them out; waits until no step is
    being made.

    ``models``: gives the registered versions, with their snapshot and cohort. Raises `InputError`
    where no snapshot knows the subject and they were not forgotten before.
    """
    with lock_exclusively(out, on_wait=on_wait):
        forgotten = Forgotten.load(out)
        if forgotten.pending:
            _erase(out, forgotten)
        digest = forgotten.digest(subject_id)
        is_known = bool(snapshots_of(out, subject_id)) or scoring.has_scored(out, subject_id)
        before = digest in forgotten.subjects
        if not is_known and not before:
            raise InputError(
                f"no snapshot in {out} knows the subject {subject_id!r}: nothing was erased. Write "
                "the id as the column subject_id of the samples table has it"
            )
        if is_known:
            seen = _models_that_saw(out, subject_id, models())
            known = {
                model["version"]: model
                for model in forgotten.subjects.get(digest, {}).get("models", [])
            }
            merged = {model["version"]: model for model in seen} | known
            forgotten.subjects[digest] = {"erased": False, "models": list(merged.values())}
            forgotten.save(out)
        return Erased(_erase(out, forgotten), forgotten.subjects[digest]["models"], before)


def forget_and_say(out: Path, subject_id: str, ask: Callable[[str], bool] | None) -> int:
    """``m3h forget``: ask, erase, print what went and which models had learned from the patient."""
    settle_location(out)
    config = configuration.load(out)
    known = snapshots_of(out, subject_id)
    for snapshot, samples in known.items():
        print(f"snapshot {snapshot}: {samples} samples")
    if (
        known
        and ask is not None
        and not ask(f"Erase them from {len(known)} snapshots? This can't be undone.")
    ):
        print("Nothing was erased.")
        return 1

    def versions() -> list[registry.Registered]:
        if not known or not _has_registry(out):
            return []
        tracking.connect(configuration.mlflow_uri(out), out / "mlflow" / "artifacts")
        return registry.registered()

    erased = forget(
        out,
        subject_id,
        models=versions,
        on_wait=lambda: print("A run is under way: waiting for its step to end ..."),
    )
    if erased.models and _has_registry(out):
        tracking.connect(configuration.mlflow_uri(out), out / "mlflow" / "artifacts")
        registry.mark_forgotten(_counts_by_version(Forgotten.load(out)))
    for place, rows in erased.rows.items():
        print(f"{place}: {rows:,} rows erased")
    if erased.was_forgotten_before and not any(erased.rows.values()):
        print("This patient was forgotten before; nothing of theirs was left.")
    print(
        f"{config.source.name} itself was not touched: from now on, what it holds of them is left "
        "out and counted."
    )
    if not erased.models:
        print("No registered model had learned from them.")
    for model in erased.models:
        names = f" ({', '.join(model['aliases'])})" if model["aliases"] else ""
        doubt = (
            "" if model["certain"] else ": its cohort is no longer there, so take it that it did"
        )
        print(
            f"{tracking.MODEL_NAME} version {model['version']}{names} had learned from them{doubt}"
        )
    if erased.models:
        print("To learn without them, run a new snapshot: m3h run --snapshot DATE")
    return 0


def _has_registry(out: Path) -> bool:
    uri = configuration.mlflow_uri(out)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def _counts_by_version(forgotten: Forgotten) -> Counter[str]:
    return Counter(
        model["version"] for entry in forgotten.subjects.values() for model in entry["models"]
    )


def finish(out: Path) -> None:
    """Finish an erasure that was killed; quick where there is none."""
    if (out / FILE).exists() and Forgotten.load(out).pending:
        with lock_exclusively(out):
            _erase(out, Forgotten.load(out))


def leave_out(ingested: Path, forgotten: Forgotten) -> int:
    """Take forgotten patients out of freshly ingested tables and count their rows as out of scope;
    return how many.
    """
    if not forgotten.subjects:
        return 0
    theirs = Theirs(forgotten)
    theirs.learn(pl.read_parquet(ingested / "samples.parquet", columns=list(_KEYS)))
    found = _their_rows(ingested, theirs)
    _drop_all(ingested, found, theirs)
    return sum(len(rows) for rows in found.values())


def snapshots_of(out: Path, subject_id: str) -> dict[str, int]:
    """Snapshot -> number of the subject's stays (samples) in it."""
    found: dict[str, int] = {}
    for snapshot in _snapshots(out):
        mine = {
            key
            for keys in _all_keys(snapshot)
            for key in keys.filter(pl.col("subject_id") == subject_id).select(pl.last()).to_series()
        }
        if mine:
            found[snapshot.name] = len(mine)
    return found


# --------------------------------------------------------------------------------------------------


def _snapshots(out: Path) -> list[Path]:
    parent = out / "snapshots"
    return (
        sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
        if parent.is_dir()
        else []
    )


def _all_keys(snapshot: Path) -> Iterator[pl.DataFrame]:
    """Tables that say which stays and samples are whose, wherever a snapshot has them."""
    for file in sorted(snapshot.rglob("*.parquet")):
        schema = pl.read_parquet_schema(file)
        if "subject_id" in schema:
            names = [name for name in _KEYS if name in schema]
            yield pl.read_parquet(file, columns=names).select(pl.col(names).cast(pl.String))
        elif file.parent.name == "samples" and "rule" in schema:
            row = pl.col("row").str.json_path_match
            yield pl.read_parquet(file, columns=["row"]).select(
                row(f"$.{name}").alias(name) for name in _KEYS
            )
    if (snapshot / "cohort" / "cohort.json").exists():
        about = read_json(snapshot / "cohort" / "cohort.json")
        if about["subject_ids"] is not None:
            yield pl.DataFrame(
                {"subject_id": about["subject_ids"], "sample_id": about["sample_ids"]}
            )


def _models_that_saw(out: Path, subject_id: str, versions: Sequence[Any]) -> list[dict[str, Any]]:
    """Registered versions whose training, validation or calibration split held the subject.

    ``certain`` is False where the cohort that a version learned from is no longer there.
    """
    found = []
    for version in versions:
        folder = out / "snapshots" / version.snapshot / "cohort"
        step = read_step(folder)
        certain = step is not None and step.version == version.cohort
        if certain:
            cohort = Cohort.load(folder)
            subjects = cohort.subject_ids if cohort.subject_ids is not None else cohort.sample_ids
            if subject_id not in np.asarray(subjects)[cohort.split != TEST]:
                continue
        found.append(
            {"version": version.version, "aliases": list(version.aliases), "certain": certain}
        )
    return found


def _erase(out: Path, forgotten: Forgotten) -> dict[str, int]:
    """Erase all who are on the list; rows by place."""
    clear_leftovers(out, "latest")
    for removed in (out / "snapshots").glob(".*.removed"):
        shutil.rmtree(removed)
    theirs = Theirs(forgotten)
    for snapshot in _snapshots(out):
        for folder in {snapshot, *(path.parent.parent for path in snapshot.rglob("step.json"))}:
            clear_leftovers(folder)
        for keys in _all_keys(snapshot):
            theirs.learn(keys)
    rows = {name: place(out, theirs) for name, place in PLACES.items()}
    rows["latest"] = _erase_tables(out / "latest", theirs)
    for snapshot in _snapshots(out):
        rows[snapshot.name] = _erase_snapshot(snapshot, theirs)
        _count_anew(out, snapshot)
    for entry in forgotten.subjects.values():
        entry["erased"] = True
    if forgotten.subjects:
        forgotten.save(out)
    return rows


def _erase_snapshot(snapshot: Path, theirs: Theirs) -> int:
    """Erase from one snapshot, step by step, the first steps last."""
    rows = 0
    for name, reference in _ALIGNED.items():
        for file in sorted(snapshot.rglob(name)) if theirs.samples else ():
            _erase_aligned(file, snapshot / reference, theirs)
    last = [
        snapshot / "cohort",
        snapshot / "inputs",
        *sorted((snapshot / "valid").glob("[!.]*")),
        snapshot / "ingested",
    ]
    steps = {file.parent for file in snapshot.rglob("step.json")}
    for folder in [*sorted(steps.difference(last)), *(step for step in last if step in steps)]:
        if folder.name == "cohort":
            _erase_cohort(folder, theirs)
        rows += _erase_tables(folder, theirs)
    return rows


def _erase_tables(folder: Path, theirs: Theirs) -> int:
    """Erase from the Parquet files of a folder, all at once; returns how many rows went."""
    found = _their_rows(folder, theirs)
    if found:
        revise(folder, lambda copy: _drop_all(copy, found, theirs))
    return sum(len(rows) for rows in found.values())


def _drop_all(folder: Path, found: Mapping[str, pl.DataFrame], theirs: Theirs) -> None:
    for file in found:
        _drop(folder / file, theirs)
    if (folder / "samples.parquet").exists() and (folder / "lineage.parquet").exists():
        _write_lineage(folder, found)


def _their_rows(folder: Path, theirs: Theirs) -> dict[str, pl.DataFrame]:
    """File -> source_file and source_row of each of their rows in it (null where it names none), if
    it holds any.
    """
    found = {}
    for file in sorted(folder.rglob("*.parquet")):
        table = pl.scan_parquet(file)
        if (mine := theirs.rows(table)) is None:
            continue
        schema = table.collect_schema()
        absent = [
            pl.lit(None, kind).alias(name) for name, kind in _SOURCE.items() if name not in schema
        ]
        rows = table.filter(mine).with_columns(absent).select(*_SOURCE).collect(engine="streaming")
        if len(rows):
            found[file.relative_to(folder).as_posix()] = rows
    return found


def _drop(file: Path, theirs: Theirs) -> None:
    """Write a Parquet file anew without their rows, for whom could read it before."""
    table = pl.scan_parquet(file)
    mine = theirs.rows(table)
    assert mine is not None
    partial = file.with_name(f".{file.name}.partial")
    create_private_file(partial)
    # In groups as before: what reads the file relies on their size.
    group = max(pq.ParquetFile(file).metadata.row_group(0).num_rows, 1)
    table.filter(~mine).sink_parquet(
        partial, compression="zstd", row_group_size=group, engine="streaming"
    )
    partial.chmod(file.stat().st_mode & 0o777)
    os.replace(partial, file)
    if csv_beside(file).exists():
        write_quarantine_csv(file)


def _write_lineage(ingested: Path, found: Mapping[str, pl.DataFrame]) -> None:
    """Count the rows of files that were taken out of ingested tables as out of scope.

    Many diagnoses make one label, so those of their file stay among the kept ones.
    """
    parts = [
        lineages.count_rows_by_file(rows.lazy()).with_columns(
            pl.lit(file.removesuffix(".parquet")).alias("table"), pl.lit(REASON).alias("reason")
        )
        for file, rows in found.items()
    ]
    if not parts:
        return
    file = ingested / "lineage.parquet"
    partial = file.with_name(f".{file.name}.partial")
    lineages.move_rows(
        pl.read_parquet(file), pl.concat(parts), lineages.OUT_OF_SCOPE
    ).write_parquet(partial)
    os.replace(partial, file)


def _erase_aligned(file: Path, reference: Path, theirs: Theirs) -> None:
    """Erase rows from arrays that follow the samples of another step; a step that does not follow
    it is removed.

    Such a step was made from an earlier state of the other: the next run makes it anew in any case.
    """
    from safetensors.numpy import load_file

    step = read_step(file.parent)
    followed = read_step(reference)
    if step is None or followed is None or followed.version not in step.made_from:
        discard_step(file.parent)
        return
    keep = ~_order(reference).is_in(list(theirs.samples)).to_numpy()
    arrays = load_file(file)
    if {len(values) for values in arrays.values()} == {int(keep.sum())}:
        return

    def change(copy: Path) -> None:
        partial = copy / f".{file.name}.partial"
        write_arrays(partial, {name: values[keep] for name, values in arrays.items()})
        os.replace(partial, copy / file.name)

    revise(file.parent, change)


def _order(step: Path) -> pl.Series:
    """Sample ids of a step's rows, in their order."""
    if (step / "cohort.json").exists():
        return pl.Series(
            "sample_id", read_json(step / "cohort.json")["sample_ids"], dtype=pl.String
        )
    if (step / "samples.parquet").exists():
        return pl.read_parquet(step / "samples.parquet", columns=["sample_id"]).to_series()
    return pl.Series("sample_id", [], dtype=pl.String)


def _erase_cohort(folder: Path, theirs: Theirs) -> None:
    cohort = Cohort.load(folder)
    keep = np.array([str(sample) not in theirs.samples for sample in cohort.sample_ids])
    if keep.all():
        return

    def rows(arrays: Mapping[str, Any] | None) -> dict[str, Any]:
        return {name: np.asarray(values)[keep] for name, values in (arrays or {}).items()}

    smaller = Cohort(
        sample_ids=np.asarray(cohort.sample_ids)[keep].tolist(),
        split=cohort.split[keep],
        embeddings=rows(cohort.embeddings),
        present=rows(cohort.present),
        labels=rows(cohort.labels),
        labelled=rows(cohort.labelled),
        subject_ids=None
        if cohort.subject_ids is None
        else np.asarray(cohort.subject_ids)[keep].tolist(),
        groups={name: values.tolist() for name, values in rows(cohort.groups).items()} or None,
    )

    def change(copy: Path) -> None:
        # Not into the files that are there: those are the finished step's own.
        for file in ("cohort.json", "cohort.safetensors"):
            (copy / file).unlink()
        smaller.save(copy)

    revise(folder, change)


def _count_anew(out: Path, snapshot: Path) -> None:
    """The lineage that a report shows follows what is left in the tables."""
    steps = {
        folder.name: read_step(folder) for folder in sorted((snapshot / "valid").glob("[!.]*"))
    }
    report = read_step(snapshot / "report")
    if report is None or not all(
        step and step.version in report.made_from for step in steps.values()
    ):
        return
    whole = lineages.read_whole_lineage(
        snapshot / "ingested", {name: snapshot / "valid" / name for name in steps}
    )
    folders = [snapshot / "report"]
    metrics = out / "latest" / "metrics.json"
    if metrics.exists() and read_json(metrics).get("snapshot") == snapshot.name:
        folders.append(out / "latest")
    for folder in folders:
        partial = folder / ".lineage.parquet.partial"
        whole.write_parquet(partial)
        os.replace(partial, folder / "lineage.parquet")
