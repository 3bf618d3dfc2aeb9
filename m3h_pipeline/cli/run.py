"""``m3h run``: the whole graph once, in this process, with progress."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3h_pipeline import config as configuration
from m3h_pipeline.errors import InputError
from m3h_pipeline.errors.endings import RunFailed, end_well, explain, wait_for_databases
from m3h_pipeline.jobs.encoders import check_encoders
from m3h_pipeline.registry.approval import explain_missing_approval, find_approval
from m3h_pipeline.registry.audit import POSTGRES_VARIABLE, find_postgres_url
from m3h_pipeline.sources.snapshot_label import check_label
from m3h_pipeline.state.location import record_location, update_location
from m3h_pipeline.state.locks import hold_lock
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.pages import is_served, read_last_server
from m3h_pipeline.state.paths import CONFIG_FILE, dagster_template, out_option
from m3h_pipeline.state.permissions import restrict_to_owner
from m3h_pipeline.state.snapshots import snapshot_labels
from m3h_pipeline.state.steps import read_step

if TYPE_CHECKING:
    import dagster as dg

_POSTGRES = f"""
# Set when this folder was made: Dagster's records, and the audit table beside them, are in PostgreSQL.
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_VARIABLE}
"""


def run_once(
    out: Path,
    source: str | None,
    path: Path | None,
    size: str | None,
    snapshot: str | None,
    verbose: bool = False,
) -> int:
    """Materialise everything for one snapshot; the exit code is 0 only where every blocking check
    passed.
    """
    return end_well(lambda: _run(out.absolute(), source, path, size, snapshot, verbose))


def _run(
    out: Path,
    source: str | None,
    path: Path | None,
    size: str | None,
    snapshot: str | None,
    verbose: bool,
) -> int:
    config = prepare(out, source, path, size, snapshot, to_run=True)

    from m3h_pipeline.definitions import MAIN_JOB, defs
    from m3h_pipeline.defs.partitions import add_partition
    from m3h_pipeline.defs.schedules import COMMAND_TAG, RUN_LOCK
    from m3h_pipeline.jobs.launchers import check
    from m3h_pipeline.state.liveness import fail_dead_runs

    check(config.launcher, out)
    # Shared: the steps' own locks keep two of these apart; the schedule sees that one is going.
    with hold_lock(out / RUN_LOCK, shared=True), _instance() as instance:
        fail_dead_runs(instance, out)
        add_partition(instance, config.source.snapshot)
        result = defs.resolve_job_def(MAIN_JOB).execute_in_process(
            instance=instance,
            partition_key=config.source.snapshot,
            raise_on_error=False,
            run_config={"loggers": _console(verbose)},
            tags={COMMAND_TAG: "run"},
        )
    if not result.success:
        raise RunFailed(_why(result, out / "snapshots" / config.source.snapshot))
    print(_what_to_open(out, result, config.source.snapshot))
    return 0


def score_once(
    out: Path, version: str, alias: str, everyone: bool, snapshot: str | None, verbose: bool = False
) -> int:
    """``m3h score``: materialise scores and monitoring of a snapshot that was run; exit code 0
    where it was scored.
    """
    return end_well(lambda: _score(out.absolute(), version, alias, everyone, snapshot, verbose))


def _score(
    out: Path, version: str, alias: str, everyone: bool, snapshot: str | None, verbose: bool
) -> int:
    update_location(out)
    config = configuration.load(out)
    known = snapshot_labels(out)
    label = snapshot or config.source.snapshot or max(known, default="")
    if label not in known:
        raise InputError(
            f"there is no snapshot {label} in {out}: it holds {', '.join(known) or 'none'}; "
            f"`m3h run{out_option(out)}` first"
        )
    from m3h_pipeline.registry import tracking
    from m3h_pipeline.registry.tags import CHAMPION
    from m3h_pipeline.registry.versions import find_version

    tracking.connect(mlflow_uri(out), out / "mlflow" / "artifacts")
    which = find_version(alias, version, out_option(out))
    if alias == CHAMPION and not version and find_approval(out, which.version) is None:
        raise InputError(explain_missing_approval(which.version, out_option(out)))
    prepare(out)

    from m3h_pipeline.definitions import SCORE_JOB, defs

    asked = {"config": {"version": which.version, "everyone": everyone}}
    with _instance() as instance:
        result = defs.resolve_job_def(SCORE_JOB).execute_in_process(
            instance=instance,
            partition_key=label,
            raise_on_error=False,
            run_config={"loggers": _console(verbose), "ops": {"scores": asked}},
        )
    if not result.success:
        raise RunFailed(_why(result, out / "snapshots" / label))
    facts = _facts(result)["scores"]
    print(
        f"\nScored     {facts['samples'].value:,} samples of {label} with "
        f"{tracking.MODEL_NAME} version {which.version}"
        f"\nModel      version {which.version} {_standing(out, which.version)}"
        f"\n{_where_scores_lie(out, facts, which.version)}"
    )
    if not facts["samples"].value:
        print(
            "Nobody is still in hospital, or new to this version: `m3h score "
            f"--all{out_option(out)}` scores everyone."
        )
    return 0


def _where_scores_lie(out: Path, facts: dict[str, Any], version: str) -> str:
    from m3h_pipeline.scoring.scores import DATABASE, FILE

    if facts["approved"].value:
        return f"Rows       {out / 'latest' / FILE}\nTable      {out / DATABASE}, table scores"
    return (
        f"Rows       {Path(facts['folder'].value) / FILE}\nA trial: version {version} is not "
        f"approved, so neither latest/{FILE} nor {DATABASE} holds these scores. `m3h review "
        f"approve {version}{out_option(out)}` makes it the champion."
    )


def _console(verbose: bool) -> dict[str, Any]:
    return {"console": {"config": {"verbose": verbose}}}


def write_settings(out: Path, source: str | None, path: Path | None, size: str | None) -> Path:
    """``m3h init``: write m3h.toml and nothing else; returns its path."""
    file = out / CONFIG_FILE
    if file.exists():
        raise InputError(f"{file} is there already: edit it, or choose another folder with --out")
    config = configuration.new(source, path, size)
    if config.source.path and not Path(config.source.path).is_dir():
        raise InputError(
            f"{config.source.path} is not a folder: name the one that holds the data with --path"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        configuration.save(config, out)
    except OSError as error:
        raise _not_writable(out, error) from None
    return file


def _not_writable(out: Path, error: OSError) -> InputError:
    return InputError(
        f"{out} can't be written ({error.strerror}): choose another folder with --out"
    )


def prepare(
    out: Path,
    source: str | None = None,
    path: Path | None = None,
    size: str | None = None,
    snapshot: str | None = None,
    to_run: bool = False,
) -> configuration.Config:
    """Check the choices before anything is written, then set up the out-folder and this process's
    environment.

    ``to_run``: the snapshot that m3h.toml names is to be made now.
    """
    update_location(out)
    config = configuration.for_run(out, source, path, size, snapshot)
    opened = configuration.source(config, out)
    configuration.settings(config, opened)
    if to_run or snapshot is not None:
        check_label(out, config.source.snapshot, opened)
    if to_run and config.launcher.kind == "local":
        check_encoders(config.embedding)
    # Where it was read before, its listing says whether it must be read again.
    if config.source.snapshot not in snapshot_labels(out):
        opened.check()
    try:
        home = out / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        restrict_to_owner(out)
        # What is only served or scored has no date yet: it is that of the first run.
        is_new = to_run or snapshot is not None
        configuration.save(config if is_new else configuration.dated_as_before(config, out), out)
        record_location(out)
        _configure(home / "dagster.yaml")
    except OSError as error:
        raise _not_writable(out, error) from None
    wait_for_databases()
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["M3H_OUT"] = str(out)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return config


def _configure(file: Path) -> None:
    """Write Dagster's own configuration where there is none; its records lie beside it, or in
    PostgreSQL.

    Where they lie is decided once: with the variable today and without it tomorrow there would be
    two histories.
    """
    address = find_postgres_url(file.parent.parent)
    wanted = _POSTGRES if address else ""
    if address and address == os.environ.get("MLFLOW_TRACKING_URI"):
        # Both keep the state of their schema in a table of the same name.
        raise InputError(
            f"{POSTGRES_VARIABLE} and MLFLOW_TRACKING_URI must name a database each, not the same "
            "one"
        )
    if not file.exists():
        partial = file.with_name(".dagster.yaml.partial")
        partial.write_text(dagster_template().read_text() + wanted)
        partial.replace(file)
    elif wanted and "\nstorage:" not in file.read_text():
        raise InputError(
            f"{POSTGRES_VARIABLE} is set, but {file.parent.parent} keeps Dagster's records in "
            f"SQLite: choose a new folder with --out, or add to {file}:{_POSTGRES}and begin a new "
            "history there"
        )


def _instance() -> dg.DagsterInstance:
    """This out-folder's instance, for a run in this process.

    What its steps print stays on the terminal. Dagster's capture of it would start two processes a
    step, which print a traceback of their own at Ctrl-C.
    """
    import dagster as dg

    captured = {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    return dg.DagsterInstance.local_temp(
        os.environ["DAGSTER_HOME"], overrides={"compute_logs": captured}
    )


def _why(result: dg.ExecuteInProcessResult, snapshot: Path) -> str:
    """The first failure in one paragraph: blocking checks by their descriptions, else the step's
    own message.
    """
    checked = [event.asset_check_evaluation_data for event in result.all_events
               if event.event_type_value == "ASSET_CHECK_EVALUATION"]  # fmt: skip
    if failed := [
        c for c in checked if c.blocking and c.severity.value == "ERROR" and not c.passed
    ]:
        lines = [
            f"{check.asset_key.to_user_string()}: {check.check_name}: "
            f"{check.description or 'failed'}"
                 for check in failed]  # fmt: skip
        tables = {check.asset_key.to_user_string().removeprefix("valid_") for check in failed}
        lines += _quarantined(snapshot, sorted(tables))
        return (
            "a check failed, so nothing after it was computed and the earlier results stand\n  "
            + "\n  ".join(lines)
        )
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None:
                return str(data.user_failure_data.description)
            return (
                explain(_all_messages(data.error))
                or f"{event.step_key}: {_last_message(data.error)}"
            )
    return "the run did not finish"


def _quarantined(snapshot: Path, tables: list[str]) -> list[str]:
    """Where the rows lie that a failed check speaks of; ``latest/`` is of the last run that was
    published.
    """
    lines = []
    for table in tables:
        folder = snapshot / "valid" / table
        step = read_step(folder)
        if step and any(step.info["quarantined"].values()):
            lines.append(f"rows in quarantine, with their reasons: {folder / 'quarantine.parquet'}")
    return lines


def _all_messages(error: Any) -> str:
    """The messages of a step's error and of what it came from."""
    lines = []
    while error is not None:
        lines.append(error.message.strip())
        error = error.cause or error.context
    return "\n".join(lines)


def _last_message(error: Any) -> str:
    """The message of what a step's error came from."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else "failed"


def _facts(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of what was materialised, by asset."""
    return {
        materialization.asset_key.to_user_string(): materialization.metadata
        for event in result.all_events
        if event.is_step_materialization
        and (materialization := event.step_materialization_data.materialization)
    }


def _standing(out: Path, number: str) -> str:
    """Where a version stands in the registry now, and what to do about it."""
    from m3h_pipeline.registry import tags
    from m3h_pipeline.registry.client import open_client, raise_if_unreachable
    from m3h_pipeline.registry.versions import RegistryState

    try:
        client = open_client(out)
        with raise_if_unreachable(client.tracking_uri):
            state = RegistryState.fetch(client)
    except InputError as error:
        return f"is registered; where it stands is not known: {error}"
    version = state.versions.get(number)
    words = state.describe(number)
    if version and version.status == tags.PENDING:
        return f"{words}: m3h review approve {number}{out_option(out)}"
    if version and version.is_rejected_by_gate:
        advice = version.tags.get(tags.ADVICE, "")
        command = f"m3h review approve {number}"
        advice = advice.replace(command, f"{command}{out_option(out)}")
        to_do = f"\nTo do      {advice}" if advice else ""
        return f"{words}: m3h review show {number}{out_option(out)}{to_do}"
    return words


def _pages(out: Path) -> str:
    """How Dagster's and MLflow's pages are opened."""
    served = read_last_server(out)
    uri = mlflow_uri(out)
    mlflow_page = "its own server" if uri.startswith("http") else served.mlflow_page
    addresses = f"Dagster: {served.dagster_page}, MLflow: {mlflow_page}"
    return addresses if is_served(out) else f"m3h ui{out_option(out)}   ({addresses})"


def _what_to_open(out: Path, result: dg.ExecuteInProcessResult, snapshot: str) -> str:
    """The last screen: what came out and what to open."""
    from m3h_pipeline.reports.findings import last_screen

    facts = _facts(result)
    quality = facts["quality"]
    version = facts["model_version"]
    cohort = facts["cohort"]
    number = str(version["version"].value)
    return "\n".join(
        [
            "",
            f"Cohort     {cohort['samples'].value:,} samples of {cohort['subjects'].value:,} "
            f"patients, {quality['tasks'].value} tasks, {quality['claimed'].value} with enough "
            "test labels to be claimed",
            "Learning   joint against single-task models: "
            f"{quality['joint against single-task models'].value}",
            "           joint against boosted trees: "
            f"{quality['joint against boosted trees'].value}",
            f"Model      {version['name'].value} version {number} {_standing(out, number)}",
            *last_screen(out, snapshot),
            f"Report     {out / 'latest' / 'report.html'}",
            f"Look on    {_pages(out)}",
        ]
    )
