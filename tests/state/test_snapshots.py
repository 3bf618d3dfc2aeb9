"""Which snapshot may be written, what an unchanged source costs, which snapshots are kept."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import pytest
from click.testing import CliRunner, Result
from mimic_folder import hospital, write
from mlflow import MlflowClient

from m3h_pipeline import config as configuration
from m3h_pipeline.cli.main import main
from m3h_pipeline.cli.out_folder import prepare_folder, prepare_run
from m3h_pipeline.cli.snapshot import drop_snapshot, format_snapshots
from m3h_pipeline.defs.ingestion import ingest
from m3h_pipeline.defs.partitions import add_partition
from m3h_pipeline.defs.reports import remove_surplus_snapshots
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.defs.schedules import reason_to_skip
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry import versions as registry
from m3h_pipeline.reports.publish import publish
from m3h_pipeline.scoring import scores as scoring
from m3h_pipeline.sources.mimic_iv import MimicIV
from m3h_pipeline.sources.mimic_iv import source as mimic_source
from m3h_pipeline.sources.snapshot_label import check_label
from m3h_pipeline.state.data_files import read_json, write_json
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.snapshots import remove_snapshots, select_removable, snapshot_labels
from m3h_pipeline.state.steps import produce, read_step

pytestmark = pytest.mark.slow(20)

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


@dataclass
class _Source:
    print: str = "as it was"
    supports_as_of: bool = False
    name: str = "a hospital"

    def fingerprint(self) -> str:
        return self.print


@pytest.fixture
def out(tmp_path) -> Path:
    """An out-folder with two snapshots of an unchanged source."""
    for day in DAYS[:2]:
        produce(
            tmp_path / "snapshots" / day / "ingested",
            "key",
            lambda to: {"fingerprint": "as it was"},
        )
    return tmp_path


def test_the_first_label_may_be_any_date(tmp_path):
    check_label(tmp_path, "1999-12-31", _Source())


def test_a_later_label_and_the_newest_itself_may_be_written(out):
    check_label(out, DAYS[2], _Source("changed"))
    check_label(out, DAYS[1], _Source("changed"))
    assert snapshot_labels(out) == DAYS[:2]


def test_an_earlier_snapshot_may_be_made_again_from_an_unchanged_source(out):
    check_label(out, DAYS[0], _Source())


def test_todays_data_is_not_put_under_an_old_label(out):
    with pytest.raises(
        InputError, match=r"its source has changed since: .*choose a label after 2026-01-02"
    ):
        check_label(out, DAYS[0], _Source("changed"))


def test_a_backfill_is_refused_unless_the_source_can_replay_the_past(out):
    with pytest.raises(
        InputError, match=r"can't be read as it was then.*Choose a label after 2026-01-02"
    ):
        check_label(out, "2025-06-01", _Source())
    check_label(out, "2025-06-01", _Source(supports_as_of=True))


def test_a_label_that_is_no_date_is_refused_and_stops_no_later_night(out):
    for wrong in ("tomorrow", "2026-1-5", "20260105"):
        with pytest.raises(
            InputError, match=rf"'{wrong}' is not a date.*m3h snapshot drop {wrong} --out"
        ):
            check_label(out, wrong, _Source())
    # What an earlier version let in.
    produce(
        out / "snapshots" / "tomorrow" / "ingested", "key", lambda to: {"fingerprint": "as it was"}
    )
    assert snapshot_labels(out) == DAYS[:2]
    check_label(out, DAYS[2], _Source("changed"))


def test_a_date_in_the_future_is_refused(out):
    tomorrow, later = (dt.date.today() + dt.timedelta(days=days) for days in (1, 2))
    check_label(out, tomorrow.isoformat(), _Source())
    with pytest.raises(
        InputError, match=f"snapshot {later} lies in the future: .*Choose today's date"
    ):
        check_label(out, later.isoformat(), _Source())
    check_label(out, later.isoformat(), _Source(name="demo"))
    # The clock was set back since: today's date would be the past, so this one is gone on with.
    produce(out / "snapshots" / later.isoformat() / "ingested", "key", lambda to: {})
    check_label(out, later.isoformat(), _Source())


# Through Dagster and the command line -------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Materialise the ingestion of a small hospital for a label; its folder is ``run.root``."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    folder = tmp_path / "out"
    root = write(tmp_path / "hospital", hospital())
    prepare_run(folder, "mimic-iv", root, None, DAYS[1])
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("snapshot", ["2025-06-01", *DAYS])

    def materialise(label: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [ingest],
            resources={"workspace": Workspace(out=str(folder))},
            partition_key=label,
            instance=instance,
            raise_on_error=False,
        )

    materialise.out = folder
    materialise.root = root
    materialise.instance = instance
    return materialise


def _failure(result: dg.ExecuteInProcessResult) -> str:
    return next(
        str(e.step_failure_data.user_failure_data.description)
        for e in result.all_events
        if e.is_step_failure
    )


def test_an_unchanged_source_costs_one_listing_and_reads_no_content(run, monkeypatch):
    assert run(DAYS[1]).success
    before = read_step(run.out / "snapshots" / DAYS[1] / "ingested")
    # Files whose content can't be read as what it was, under the same size and time.
    for file in [path for path in run.root.rglob("*") if path.is_file()]:
        stat = file.stat()
        file.write_bytes(b"\0" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    listings = []
    listing = mimic_source.listing_fingerprint
    monkeypatch.setattr(
        mimic_source, "listing_fingerprint", lambda *a: listings.append(a) or listing(*a)
    )
    prepare_folder(run.out)
    assert run(DAYS[1]).success
    assert len(listings) == 1
    assert read_step(run.out / "snapshots" / DAYS[1] / "ingested") == before
    # What is there now is seen as soon as the listing says that it changed.
    os.utime(run.root / "hosp" / "patients.csv.gz")
    assert "patients.csv.gz" in _failure(run(DAYS[1]))


def test_the_date_is_that_of_the_first_run_and_not_of_the_pages_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    root = write(tmp_path / "hospital", hospital())
    today = dt.date.today().isoformat()
    assert prepare_folder(tmp_path / "out", "mimic-iv", root).source.snapshot == today
    assert configuration.load(tmp_path / "out").source.snapshot == ""
    assert prepare_run(tmp_path / "out").source.snapshot == today
    assert configuration.load(tmp_path / "out").source.snapshot == today


def test_a_backfill_in_the_ui_or_on_the_command_line_is_refused(run):
    assert run(DAYS[1]).success
    assert "today's data would stand under an old date" in _failure(run("2025-06-01"))
    before = (run.out / "m3h.toml").read_bytes()
    with pytest.raises(InputError, match="Choose a label after 2026-01-02"):
        prepare_run(run.out, snapshot="2025-06-01")
    assert (run.out / "m3h.toml").read_bytes() == before
    assert snapshot_labels(run.out) == [DAYS[1]]


def test_a_partition_that_is_no_date_fails_at_once_and_is_forgotten_by_the_next_run(run):
    run.instance.add_dynamic_partitions("snapshot", ["tomorrow"])
    assert "'tomorrow' is not a date" in _failure(run("tomorrow"))
    assert not (run.out / "snapshots").exists()
    assert run(DAYS[1]).success
    add_partition(run.instance, DAYS[2])
    assert "tomorrow" not in run.instance.get_dynamic_partitions("snapshot")
    assert set(DAYS) <= set(run.instance.get_dynamic_partitions("snapshot"))


def test_an_old_snapshot_stands_when_its_source_has_changed(run):
    assert run(DAYS[0]).success
    assert run(DAYS[1]).success
    assert run(DAYS[0]).success
    old = read_step(run.out / "snapshots" / DAYS[0] / "ingested")
    os.utime(run.root / "hosp" / "patients.csv.gz")
    assert "its source has changed since" in _failure(run(DAYS[0]))
    assert read_step(run.out / "snapshots" / DAYS[0] / "ingested") == old
    assert run(DAYS[1]).success


def test_a_lost_row_fails_the_lineage_check(run, monkeypatch):
    extract = MimicIV.extract

    def losing(self, to, settings):
        facts = extract(self, to, settings)
        notes = pl.read_parquet(to / "notes.parquet")
        notes[1:].write_parquet(to / "notes.parquet")
        facts["rows read"]["hosp/labevents.csv.gz"] += 1
        return facts

    good = run(DAYS[1]).get_asset_check_evaluations()
    assert {check.check_name for check in good} == {"lineage"}
    assert all(check.passed for check in good)
    monkeypatch.setattr(MimicIV, "extract", losing)
    checks = {
        check.asset_key.to_user_string(): check
        for check in run(DAYS[2]).get_asset_check_evaluations()
    }
    assert {name for name, check in checks.items() if not check.passed} == {"notes", "events"}
    assert checks["notes"].blocking
    assert "1 rows are said to be kept, 0 lie there" in checks["notes"].description
    assert "rows were read, " in checks["events"].description


# Retention ----------------------------------------------------------------------------------------


def test_the_newest_is_kept_whatever_the_bounds():
    assert select_removable(DAYS, [], snapshots=1, days=1) == DAYS[:2]
    assert select_removable(DAYS, [], snapshots=0, days=0) == []
    assert select_removable([], [], snapshots=1, days=1) == []
    assert select_removable(["2026-01-01"], [], snapshots=1, days=1) == []


def test_removal_leaves_the_others_and_waits_for_another_day_while_a_step_is_made(out):
    with lock_shared(out):
        assert remove_snapshots(out, [DAYS[0]]) == []
    assert snapshot_labels(out) == DAYS[:2]
    # What a killed removal left goes, too.
    shutil.copytree(out / "snapshots" / DAYS[0], out / "snapshots" / ".2020-01-01.removed")
    assert remove_snapshots(out, [DAYS[0]]) == [DAYS[0]]
    assert [path.name for path in (out / "snapshots").iterdir()] == [DAYS[1]]


def test_snapshots_that_a_model_in_use_was_trained_on_are_kept(run):
    days = [f"2026-01-{day:02}" for day in range(1, 8)]
    for day in days:
        produce(run.out / "snapshots" / day / "ingested", "key", lambda to: {})
    tracking.connect(mlflow_uri(run.out), run.out / "mlflow" / "artifacts")
    client = MlflowClient()
    client.create_registered_model(tracking.MODEL_NAME)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    for day, status in zip(
        days, ["approved", "approved", "rejected", "approved", "pending"], strict=False
    ):
        trained = client.create_run(experiment, tags={"m3h.cohort": f"cohort of {day}"})
        tags = {"snapshot": day, "validation_status": status}
        client.create_model_version(
            tracking.MODEL_NAME, "file:///x", run_id=trained.info.run_id, tags=tags
        )
    client.set_registered_model_alias(tracking.MODEL_NAME, "champion", "2")
    client.set_registered_model_alias(tracking.MODEL_NAME, "previous", "1")

    versions = registry.list_versions()
    assert [(v.version, v.aliases, v.snapshot, v.pending) for v in versions] == [
        ("1", ("previous",), days[0], False),
        ("2", ("champion",), days[1], False),
        ("3", (), days[2], False),
        ("4", (), days[3], False),
        ("5", (), days[4], True),
    ]
    assert versions[1].cohort == f"cohort of {days[1]}"
    registry.mark_forgotten({"2": 1})
    assert client.get_model_version(tracking.MODEL_NAME, "2").tags["m3h.forgotten_patients"] == "1"

    with pytest.raises(
        InputError, match=r"version 2 \(champion\) learned from it.*m3h review reject 2 --out"
    ):
        drop_snapshot(run.out, days[1], ask=None)
    with pytest.raises(InputError, match=r"version 5 \(waits for review\) learned from it"):
        drop_snapshot(run.out, days[4], ask=None)
    assert snapshot_labels(run.out) == days
    used = [line for line in format_snapshots(run.out).splitlines() if "version" in line]
    assert [(line.split()[0], line[line.index("version") :]) for line in used] == [
        (days[0], "version 1 (previous)"),
        (days[1], "version 2 (champion)"),
        (days[2], "version 3"),
        (days[3], "version 4"),
        (days[4], "version 5 (waits for review)"),
    ]

    workspace = Workspace(out=str(run.out))
    assert remove_surplus_snapshots(workspace) == []
    keeping = configuration.RetentionConfig(snapshots=2)
    configuration.save(workspace.config.model_copy(update={"retention": keeping}), run.out)
    assert remove_surplus_snapshots(workspace) == [days[2], days[3]]
    assert snapshot_labels(run.out) == [days[0], days[1], days[4], days[5], days[6]]
    assert len(client.search_model_versions(f"name='{tracking.MODEL_NAME}'")) == 5


def test_retention_is_read_from_the_configuration(tmp_path):
    configuration.save(replace_retention(configuration.Config(), days=30), tmp_path)
    assert configuration.load(tmp_path).retention.days == 30
    (tmp_path / "m3h.toml").write_text("[retention]\nsnapshots = -1\n")
    with pytest.raises(InputError, match=r"retention\.snapshots"):
        configuration.load(tmp_path)


@pytest.fixture
def mistaken(run) -> Path:
    """An out-folder whose last snapshot has a date typed by mistake, which its scores and
    ``latest`` show.
    """
    wrong = "2036-01-01"
    for label in (DAYS[1], wrong):
        folder = run.out / "snapshots" / label
        produce(folder / "ingested", "key", lambda to: {"fingerprint": "as it was"})

        def write_report(to: Path, label: str = label) -> None:
            write_json(to / "metrics.json", {"snapshot": label})

        def write_scores(to: Path, label: str = label) -> dict[str, str]:
            texts = [name for name, kind in scoring.SCHEMA.items() if kind == pl.String]
            row = pl.DataFrame({name: ["1"] for name in texts})
            some = pl.concat([pl.DataFrame(schema=scoring.SCHEMA), row], how="diagonal")
            scoring.write_scores([some], to, version="1", snapshot=label)
            return {"model_version": "1"}

        report = produce(folder / "report", "key", write_report)
        scores = produce(folder / "scores", "key", write_scores)
        publish(run.out, report.folder, scores.folder / scoring.FILE)
        scoring.publish_scores(run.out, scores.folder / scoring.FILE)
    config = configuration.load(run.out)
    configuration.save(configuration.set_snapshot(config, wrong), run.out)
    return run.out


def test_a_mistaken_snapshot_is_listed_and_dropped_with_all_that_shows_it(mistaken):
    def command(*arguments: str, **more: str) -> Result:
        return CliRunner().invoke(main, ["snapshot", *arguments, "--out", str(mistaken)], **more)

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("snapshot", [DAYS[1], "2036-01-01", "tomorrow"])
    workspace = Workspace(out=str(mistaken))
    assert "m3h snapshot drop 2036-01-01 --out" in str(reason_to_skip(workspace, DAYS[2]))

    listed = command("list").stdout.splitlines()[1:]
    assert [line.split()[0] for line in listed] == [DAYS[1], "2036-01-01", "tomorrow"]
    assert listed[2].split()[1] == "no"
    assert listed[2].endswith("not a date")

    assert "nothing was removed" in command("drop", "2036-01-01", input="n\n").stdout
    assert snapshot_labels(mistaken) == [DAYS[1], "2036-01-01"]
    with lock_shared(mistaken):
        busy = command("drop", "2036-01-01", "--yes")
        assert (busy.exit_code, "a run is at work" in busy.stderr) == (1, True)

    dropped = command("drop", "2036-01-01", "--yes")
    assert dropped.exit_code == 0, dropped.output
    assert "is removed, with 1 scores" in dropped.stdout
    assert command("drop", "tomorrow", "--yes").exit_code == 0
    assert [path.name for path in (mistaken / "snapshots").iterdir()] == [DAYS[1]]
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("snapshot") == [DAYS[1]]
    assert read_json(mistaken / "latest" / "metrics.json") == {"snapshot": DAYS[1]}
    assert pl.read_parquet(mistaken / "latest" / scoring.FILE)["snapshot"].to_list() == [DAYS[1]]
    with duckdb.connect(mistaken / scoring.DATABASE, read_only=True) as database:
        assert database.execute("SELECT snapshot FROM scores").fetchall() == [(DAYS[1],)]
    assert configuration.load(mistaken).source.snapshot == ""
    assert reason_to_skip(workspace, DAYS[2]) is None

    for label in ("2036-01-01", "..", f"../snapshots/{DAYS[1]}"):
        unknown = command("drop", label, "--yes")
        assert (unknown.exit_code, f"it holds {DAYS[1]}" in unknown.stderr) == (1, True)
    assert snapshot_labels(mistaken) == [DAYS[1]]


def replace_retention(config: configuration.Config, **bounds: int) -> configuration.Config:
    return config.model_copy(update={"retention": configuration.RetentionConfig(**bounds)})
