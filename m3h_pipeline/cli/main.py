"""``m3h``: each command is a few lines over Dagster's and MLflow's own interfaces."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from m3h_pipeline.cli.options import OUT, require_out_folder
from m3h_pipeline.cli.review import review
from m3h_pipeline.errors import InputError
from m3h_pipeline.state.paths import out_option
from m3h_pipeline.state.permissions import set_private_umask

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
    help="Of the demo: 1,000 stays, or 150 and six tasks.",
)


@main.command()
@_SOURCE
@_PATH
@_SIZE
@OUT
def init(source: str | None, path: Path | None, size: str | None, out: Path) -> None:
    """Write m3h.toml, with every setting explained.

    Each stands there with its default. Nothing is read or computed yet: edit the file, then `m3h
    run`.

    Example: m3h init --source tables --path my-hospital --out my-run
    """
    from m3h_pipeline.cli.out_folder import write_settings

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
@OUT
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
@OUT
def ui(port: int | None, mlflow_port: int | None, out: Path) -> None:
    """Serve Dagster and MLflow on this machine, until Ctrl-C.

    On its loopback alone, once for each out-folder. While it serves, the nightly schedule is at
    work, and what is approved in MLflow's pages is carried out.

    Example: m3h ui --out my-run --port 3001
    """
    from m3h_pipeline.cli.ui import serve

    sys.exit(serve(out, port, mlflow_port))


main.add_command(review)


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
@OUT
def score(
    version: str | None, alias: str, everyone: bool, snapshot: str | None, verbose: bool, out: Path
) -> None:
    """Score a snapshot's samples with the champion.

    Into latest/scores.parquet and scores.duckdb, in the out-folder. Scores of a version that nobody
    approved are a trial: they lie elsewhere, and the command says where.

    Example: m3h score --all --out my-run
    """
    from m3h_pipeline.cli.score import score_once

    sys.exit(score_once(out, version or "", alias, everyone, snapshot, verbose))


@main.command()
@click.argument("subject")
@click.option("--yes", is_flag=True, help="Erase without asking.")
@OUT
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
@OUT
def snapshot_list(out: Path) -> None:
    """List all snapshots, and which versions use them.

    Example: m3h snapshot list --out my-run
    """
    from m3h_pipeline.cli.snapshot import format_snapshots

    click.echo(format_snapshots(require_out_folder(out)))


@snapshot.command("drop")
@click.argument("label")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@OUT
def snapshot_drop(label: str, yes: bool, out: Path) -> None:
    """Remove the snapshot LABEL, such as one of a wrong date.

    With its scores, and from Dagster's list of partitions. Not one of a version that is in use or
    waits for review; what MLflow holds stays.

    Example: m3h snapshot drop 2036-01-01 --out my-run
    """
    from m3h_pipeline.cli.snapshot import drop_snapshot

    click.echo(drop_snapshot(require_out_folder(out), label, ask=None if yes else click.confirm))


@main.command("demo-hospital")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; it must not exist yet.",
)
@click.option(
    "--stays",
    default=1000,
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
