"""``m3h``: each command is a few lines over Dagster's and MLflow's own interfaces."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.paths import DEFAULT_OUT, out_option
from m3h_pipeline.state.permissions import set_private_umask

_OUT = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_OUT, show_default=True,
    help="Folder that holds all state: snapshots, Dagster's and MLflow's storage, reports.",
)  # fmt: skip


_PORT = click.IntRange(1, 65535)
_VERBOSE = click.option(
    "--verbose", is_flag=True, help="Every line that Dagster and the jobs log, not only one a step."
)


class _Commands(click.Group):
    """A user's mistake is one paragraph on standard error and exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands)
@click.version_option(package_name="m3h")
def main() -> None:
    """Multimodal multitask machine learning for hospitals, every night.

    \b
    m3h run --source demo                       a synthetic hospital, to try it
    m3h run --source tables --path my-hospital --out my-run
                                                your own tables, once
    m3h ui --out my-run                         its pages, and every night by itself
    m3h review list --out my-run                which versions wait for a person

    `m3h COMMAND --help` has an example of each. All settings are in m3h.toml in the out-folder.
    """
    set_private_umask()


_SOURCE = click.option(
    "--source",
    type=click.Choice(["demo", "mimic-iv", "meds", "haim", "tables"]),
    help="Where the data comes from.  [default: demo]",
)
_PATH = click.option(
    "--path",
    type=click.Path(path_type=Path),
    help="The folder that holds the data (not for the demo).",
)
_SIZE = click.option(
    "--size",
    type=click.Choice(["full", "tiny"]),
    help="Of the demo: 1,500 stays, or 150 and six tasks.",
)


@main.command()
@_SOURCE
@_PATH
@_SIZE
@_OUT
def init(source: str | None, path: Path | None, size: str | None, out: Path) -> None:
    """Write m3h.toml, with every setting explained.

    Each stands there with its default. Nothing is read or computed yet: edit the file, then `m3h
    run`.

    Example: m3h init --source tables --path my-hospital --out my-run
    """
    from m3h_pipeline.cli.run import write_settings

    click.echo(
        f"{write_settings(out, source, path, size)} is written: edit it, then m3h "
        f"run{out_option(out)}"
    )


@main.command()
@_SOURCE
@_PATH
@_SIZE
@click.option(
    "--snapshot",
    metavar="DATE",
    help="The extraction's label.  [default: the last run's; at first today]",
)
@_VERBOSE
@_OUT
def run(
    source: str | None,
    path: Path | None,
    size: str | None,
    snapshot: str | None,
    verbose: bool,
    out: Path,
) -> None:
    """Run once, from the source to a registered model.

    What has not changed since the last run is taken as it is; a run that was stopped goes on where
    it was.

    Example: m3h run --source mimic-iv --path /data/mimic-iv --out my-run
    """
    from m3h_pipeline.cli.run import run_once

    sys.exit(run_once(out, source, path, size, snapshot, verbose))


@main.command()
@click.option(
    "--port", type=_PORT, help="Dagster's port.  [default: the last one's; at first 3000]"
)
@click.option(
    "--mlflow-port", type=_PORT, help="MLflow's port.  [default: the last one's; at first 5000]"
)
@_OUT
def ui(port: int | None, mlflow_port: int | None, out: Path) -> None:
    """Serve Dagster and MLflow on this machine, until Ctrl-C.

    On its loopback alone, once for each out-folder. While it serves, the nightly schedule is at
    work, and what is approved in MLflow's pages is carried out.

    Example: m3h ui --out my-run --port 3001
    """
    from m3h_pipeline.cli.ui import serve

    sys.exit(serve(out, port, mlflow_port))


@main.group()
def review() -> None:
    """Decide which version scores.

    A decision takes effect at once, whether or not `m3h ui` runs.

    Example: m3h review list --out my-run
    """


def _known(out: Path) -> Path:
    """An out-folder that a run has written; no other is made by asking about it."""
    from m3h_pipeline import config
    from m3h_pipeline.state.location import update_location

    config.load(out)
    update_location(out)
    return out.absolute()


_WHO = click.option("--reviewer", metavar="NAME", help="Who decides.  [default: the system user]")
_WHY = click.option("--reason", default="", help="Why; it stands in the audit table.")


@review.command("list")
@_OUT
def review_list(out: Path) -> None:
    """List all versions, and who decided what about them.

    Example: m3h review list --out my-run
    """
    from m3h_pipeline.registry.listing import format_overview

    click.echo(format_overview(_known(out)))


@review.command()
@click.argument("version", required=False)
@_OUT
def show(version: str | None, out: Path) -> None:
    """Show the model card of VERSION.

    By default, that of the only one that waits.

    Example: m3h review show 7 --out my-run
    """
    from m3h_pipeline.registry.listing import format_card

    click.echo(format_card(_known(out), version))


@review.command()
@click.argument("version", required=False)
@_WHO
@_WHY
@_OUT
def approve(version: str | None, reviewer: str | None, reason: str, out: Path) -> None:
    """Make VERSION the champion.

    By default, the only one that waits.

    Example: m3h review approve 7 --reason "level with version 6, better calibrated" --out my-run
    """
    from m3h_pipeline.registry.review import decide
    from m3h_pipeline.registry.tags import APPROVED

    click.echo(decide(_known(out), APPROVED, version, reviewer, reason))


@review.command()
@click.argument("version", required=False)
@_WHO
@_WHY
@_OUT
def reject(version: str | None, reviewer: str | None, reason: str, out: Path) -> None:
    """Decide against VERSION.

    If it is the champion, the previous one takes its place.

    Example: m3h review reject 7 --reason "drops in the emergency ward" --out my-run
    """
    from m3h_pipeline.registry.review import decide
    from m3h_pipeline.registry.tags import REJECTED

    click.echo(decide(_known(out), REJECTED, version, reviewer, reason))


@review.command()
@_WHO
@_WHY
@_OUT
def rollback(reviewer: str | None, reason: str, out: Path) -> None:
    """Reject the champion.

    The previous one is champion again.

    Example: m3h review rollback --reason "alarms doubled overnight" --out my-run
    """
    from m3h_pipeline.registry.review import roll_back

    click.echo(roll_back(_known(out), reviewer, reason))


@review.command()
@click.argument("version")
@_WHO
@_WHY
@_OUT
def anchor(version: str, reviewer: str | None, reason: str, out: Path) -> None:
    """Make VERSION the anchor.

    Each candidate is held against it beside the champion, so that small losses can't add up. The
    first version that is approved is it, until you move it here.

    Example: m3h review anchor 7 --reason "the tasks were defined anew" --out my-run
    """
    from m3h_pipeline.registry.anchor import move_anchor

    click.echo(move_anchor(_known(out), version, reviewer, reason))


@review.command()
@click.argument("version", required=False)
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Leave the files that were compared in this new folder.",
)
@_OUT
def verify(version: str | None, to: Path | None, out: Path) -> None:
    """Compare the files of VERSION with those that were approved.

    By default, the champion's. Exit code 1 where they differ.

    Example: m3h review verify 7 --out my-run
    """
    from m3h_pipeline.registry.approval import verify

    click.echo(verify(_known(out), version, to))


@main.command()
@click.option("--version", help="Score with this version.  [default: the one with the alias]")
@click.option(
    "--alias",
    default="champion",
    show_default=True,
    help="Score with the version that has this alias.",
)
@click.option(
    "--all",
    "everyone",
    is_flag=True,
    help="Everyone, not only those still in hospital and those new to it.",
)
@click.option("--snapshot", metavar="DATE", help="Whose samples.  [default: the last run's]")
@_VERBOSE
@_OUT
def score(
    version: str | None, alias: str, everyone: bool, snapshot: str | None, verbose: bool, out: Path
) -> None:
    """Score a snapshot's samples with the champion.

    Into latest/scores.parquet and scores.duckdb, in the out-folder. Scores of a version that nobody
    approved are a trial: they lie elsewhere, and the command says where.

    Example: m3h score --all --out my-run
    """
    from m3h_pipeline.cli.run import score_once

    sys.exit(score_once(out, version or "", alias, everyone, snapshot, verbose))


@main.command()
@click.argument("subject")
@click.option("--yes", is_flag=True, help="Erase without asking.")
@_OUT
def forget(subject: str, yes: bool, out: Path) -> None:
    """Erase the patient SUBJECT, and leave them out from now on.

    From every snapshot, cache and quarantine, and from the scores.

    SUBJECT is the id as in the column subject_id of the samples. Says which registered models had
    learned from them. An erasure that was interrupted is finished by the same command, or by the
    next run.

    Example: m3h forget 10012345 --out my-run
    """
    from m3h_pipeline.cli.forget import forget_subject

    sys.exit(forget_subject(out.absolute(), subject, ask=None if yes else click.confirm))


@main.group()
def snapshot() -> None:
    """See which snapshots there are, and drop a mistake.

    A snapshot is what one run read from the source, under a date.

    Example: m3h snapshot list --out my-run
    """


@snapshot.command("list")
@_OUT
def snapshot_list(out: Path) -> None:
    """List all snapshots, and which versions use them.

    Example: m3h snapshot list --out my-run
    """
    from m3h_pipeline.cli.snapshot import overview

    click.echo(overview(_known(out)))


@snapshot.command("drop")
@click.argument("label")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@_OUT
def snapshot_drop(label: str, yes: bool, out: Path) -> None:
    """Remove the snapshot LABEL, such as one of a wrong date.

    With its scores, and from Dagster's list of partitions. Not one of a version that is in use or
    waits for review; what MLflow holds stays.

    Example: m3h snapshot drop 2036-01-01 --out my-run
    """
    from m3h_pipeline.cli.snapshot import drop

    click.echo(drop(_known(out), label, ask=None if yes else click.confirm))


@main.command("demo-hospital")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; it must not exist yet.",
)
@click.option(
    "--stays",
    default=1500,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of hospital stays.",
)
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same bytes.")
def demo_hospital(to: Path, stays: int, seed: int) -> None:
    """Write a synthetic hospital in MIMIC-IV's own layout.

    Example: m3h demo-hospital --to hospital --stays 200
    """
    from m3h_pipeline.demo import write_demo_hospital

    if to.exists():
        raise InputError(f"{to} is there already: name a folder that does not exist")
    with click.progressbar(length=stays, label="stays", file=sys.stderr) as bar:
        write_demo_hospital(to, stays, seed, on_progress=lambda done, _: bar.update(done - bar.pos))
    click.echo(f"{stays} stays in {to}; read them with: m3h run --source mimic-iv --path {to}")


if __name__ == "__main__":
    main()
