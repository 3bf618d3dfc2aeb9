"""``m3h score``: scores and monitoring of a snapshot that was run."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline import config as configuration
from m3h_pipeline.cli.failures import explain_failure
from m3h_pipeline.cli.in_process import configure_console, open_instance
from m3h_pipeline.cli.last_screen import format_scores, read_facts
from m3h_pipeline.cli.out_folder import prepare_folder
from m3h_pipeline.errors import InputError
from m3h_pipeline.errors.endings import RunFailed, run_to_end
from m3h_pipeline.registry.approval import explain_missing_approval, find_approval
from m3h_pipeline.state.layout import snapshot_folder
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.opening import open_out_folder
from m3h_pipeline.state.paths import out_option
from m3h_pipeline.state.snapshots import snapshot_labels


def score_once(
    out: Path, version: str, alias: str, everyone: bool, snapshot: str | None, verbose: bool = False
) -> int:
    """``m3h score``: materialise scores and monitoring of a snapshot that was run; exit code 0
    where it was scored.
    """
    return run_to_end(lambda: _score(out.absolute(), version, alias, everyone, snapshot, verbose))


def _score(
    out: Path, version: str, alias: str, everyone: bool, snapshot: str | None, verbose: bool
) -> int:
    open_out_folder(out)
    config = configuration.load(out)
    labels = snapshot_labels(out)
    label = snapshot or config.source.snapshot or max(labels, default="")
    if label not in labels:
        raise InputError(
            f"there is no snapshot {label} in {out}: it holds {', '.join(labels) or 'none'}; "
            f"`m3h run{out_option(out)}` first"
        )
    from m3h_pipeline.registry import tracking
    from m3h_pipeline.registry.tags import CHAMPION
    from m3h_pipeline.registry.versions import find_version

    tracking.connect(mlflow_uri(out), out / "mlflow" / "artifacts")
    chosen = find_version(alias, version, out_option(out))
    if alias == CHAMPION and not version and find_approval(out, chosen.version) is None:
        raise InputError(explain_missing_approval(chosen.version, out_option(out)))
    prepare_folder(out)

    from m3h_pipeline.definitions import SCORE_JOB, defs

    scores_config = {"config": {"version": chosen.version, "everyone": everyone}}
    with open_instance(out) as instance:
        result = defs.resolve_job_def(SCORE_JOB).execute_in_process(
            instance=instance,
            partition_key=label,
            raise_on_error=False,
            run_config={"loggers": configure_console(verbose), "ops": {"scores": scores_config}},
        )
    if not result.success:
        raise RunFailed(explain_failure(result, snapshot_folder(out, label)))
    facts = read_facts(result)["scores"]
    print(format_scores(out, facts, tracking.MODEL_NAME, chosen.version, label))
    return 0
