"""``m3h snapshot``: which snapshots an out-folder holds, and how one that was a mistake goes.

What goes with a snapshot is what would mislead people later: its steps, its scores, its place in
``latest`` and in Dagster's list of partitions. What MLflow holds stays; a version in use keeps its
snapshot.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from m3h_pipeline import config as configuration
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry.client import open_client, raise_if_unreachable
from m3h_pipeline.registry.versions import RegisteredVersion, list_versions
from m3h_pipeline.reports.publish import publish
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.layout import (
    INGESTED,
    LATEST,
    REPORT,
    SCORES,
    list_snapshot_folders,
    snapshot_folder,
)
from m3h_pipeline.state.locks import hold_lock, lock_exclusively
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.paths import out_option
from m3h_pipeline.state.snapshots import as_date, remove_snapshot_folders, snapshot_labels
from m3h_pipeline.state.steps import read_step

if TYPE_CHECKING:
    import dagster as dg

_NO_DATE = "not a date"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as its folder, Dagster's partitions and MLflow's registry know it."""

    label: str
    ingested: dt.datetime | None = None
    samples: int | None = None
    versions: list[RegisteredVersion] = field(default_factory=list)

    @property
    def in_use(self) -> list[RegisteredVersion]:
        """The versions trained on it that have an alias or wait for review."""
        return [version for version in self.versions if version.aliases or version.pending]


def format_snapshots(out: Path) -> str:
    """``m3h snapshot list``: a line a snapshot, the earliest first."""
    with _open_instance(out) as instance:
        snapshots = _list_snapshots(out, instance)
    if not snapshots:
        return "there is no snapshot yet"
    lines = [f"{'label':<12}{'ingested':<20}{'samples':>9}   used by"]
    for snapshot in snapshots:
        ingested = f"{snapshot.ingested:%Y-%m-%d %H:%M}Z" if snapshot.ingested else "no"
        samples = "" if snapshot.samples is None else f"{snapshot.samples:,}"
        remarks = [_describe_version(version) for version in snapshot.versions]
        if as_date(snapshot.label) is None:
            remarks.append(_NO_DATE)
        lines.append(
            f"{snapshot.label:<12}{ingested:<20}{samples:>9}   {', '.join(remarks)}".rstrip()
        )
    return "\n".join(lines)


def drop_snapshot(out: Path, label: str, ask: Callable[[str], bool] | None) -> str:
    """``m3h snapshot drop``: remove a snapshot and what shows it, in an order that a killed drop
    can repeat.

    ``ask`` is asked before. Raises `InputError` where there is no such snapshot, a version in use
    was trained on it, or a run is at work.
    """
    with _open_instance(out) as instance, _lock_against_runs(out, instance):
        snapshots = {snapshot.label: snapshot for snapshot in _list_snapshots(out, instance)}
        if label not in snapshots:
            labels = ", ".join(snapshots) or "none"
            raise InputError(f"there is no snapshot {label!r} in {out}: it holds {labels}")
        _refuse_in_use(snapshots[label], out)
        if ask and not ask(f"Remove the snapshot {label} with its scores? Nothing brings it back."):
            return "nothing was removed"
        config = configuration.load(out)
        if config.source.snapshot == label:
            configuration.save(configuration.set_snapshot(config, ""), out)
        scores = scoring.drop_snapshot(out, label)
        latest = _republish(out, label)
        if instance:
            instance.delete_dynamic_partition("snapshot", label)
        remove_snapshot_folders(out, [label])
    lines = [f"the snapshot {label} is removed, with {scores:,} scores"]
    if latest:
        lines.append(latest)
    versions = snapshots[label].versions
    if versions:
        numbers = ", ".join(version.version for version in versions)
        lines.append(f"trained on it, and still in MLflow's registry: version {numbers}")
    if config.source.snapshot == label:
        lines.append(f"m3h run{out_option(out)} dates its snapshot anew")
    return "\n".join(lines)


def _list_snapshots(out: Path, instance: dg.DagsterInstance | None) -> list[Snapshot]:
    """What there is: folders, partitions without a folder, and versions by the snapshot that they
    were trained on.
    """
    folders = [folder.name for folder in list_snapshot_folders(out)]
    partitions = instance.get_dynamic_partitions("snapshot") if instance else []
    versions = _list_versions(out)
    snapshots = []
    for label in sorted({*folders, *partitions}):
        if label.startswith("."):
            continue
        step = snapshot_folder(out, label) / INGESTED / "step.json"
        table = step.with_name("samples.parquet")
        ingested = None
        samples = None
        if step.exists():
            ingested = dt.datetime.fromtimestamp(step.stat().st_mtime, dt.UTC)
        if table.exists():
            samples = pl.scan_parquet(table).select(pl.len()).collect().item()
        trained = [version for version in versions if version.snapshot == label]
        snapshots.append(Snapshot(label, ingested, samples, trained))
    return snapshots


def _list_versions(out: Path) -> list[RegisteredVersion]:
    """The registered versions; none where no run has come as far as MLflow."""
    uri = mlflow_uri(out)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return []
    open_client(out)
    with raise_if_unreachable(uri):
        return list_versions()


@contextmanager
def _open_instance(out: Path) -> Generator[dg.DagsterInstance | None]:
    """Dagster's records of an out-folder; None where no run has made any."""
    home = out / "dagster"
    if not (home / "dagster.yaml").exists():
        yield None
        return
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.get() as instance:
        yield instance


@contextmanager
def _lock_against_runs(out: Path, instance: dg.DagsterInstance | None) -> Generator[None]:
    """No run is going, and none makes a step meanwhile."""
    from m3h_pipeline.definitions import MAIN_JOB
    from m3h_pipeline.defs.schedules import RUN_LOCK, find_active_run

    busy = InputError(f"a run is at work in {out}: drop the snapshot when it has ended")
    if instance and find_active_run(instance, out, MAIN_JOB):
        raise busy
    try:
        with hold_lock(out / RUN_LOCK, wait=False), lock_exclusively(out, wait=False):
            yield
    except BlockingIOError:
        raise busy from None


def _refuse_in_use(snapshot: Snapshot, out: Path) -> None:
    if not snapshot.in_use:
        return
    version = snapshot.in_use[0]
    versions = _describe_versions(snapshot.in_use)
    raise InputError(
        f"the snapshot {snapshot.label} is in use: {versions} learned from it, and "
        "new patients are compared with those that it holds. Decide against the version first, "
        f"with `m3h review reject {version.version}{out_option(out)}`, then drop the snapshot"
    )


def _describe_versions(versions: Iterable[RegisteredVersion]) -> str:
    return ", ".join(_describe_version(version) for version in versions)


def _describe_version(version: RegisteredVersion) -> str:
    roles = [*version.aliases, *(["waits for review"] if version.pending else [])]
    return f"version {version.version}" + (f" ({', '.join(roles)})" if roles else "")


def _republish(out: Path, label: str) -> str:
    """Take a snapshot out of ``latest``: the newest other one with a report takes its place. Says
    what was done.
    """
    latest = out / LATEST
    if label not in _read_shown_labels(latest):
        return ""
    for other in reversed(snapshot_labels(out)):
        folder = snapshot_folder(out, other)
        report = read_step(folder / REPORT)
        if other == label or report is None:
            continue
        scored = read_step(folder / SCORES)
        has_scores = scored is not None and scored.info.get("model_version")
        publish(out, report.folder, scored.folder / scoring.FILE if scored and has_scores else None)
        return f"{latest} shows the snapshot {other} again"
    shutil.rmtree(latest)
    return f"{latest} is removed, which showed it"


def _read_shown_labels(latest: Path) -> set[str]:
    """The snapshots that ``latest`` shows: in its report, and in its scores."""
    shown: set[str] = set()
    if (latest / "metrics.json").exists():
        shown.add(read_json(latest / "metrics.json")["snapshot"])
    if (latest / scoring.FILE).exists():
        scores = pl.scan_parquet(latest / scoring.FILE)
        shown.update(scores.select(pl.col("snapshot").unique()).collect().to_series())
    return shown
