"""``m3h``: each command is a few lines over Dagster's and MLflow's own interfaces."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from m3h_pipeline.errors import InputError

_OUT = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path(".m3h"), show_default=True,
    help="Folder that holds all state: snapshots, Dagster's and MLflow's storage, reports.",
)  # fmt: skip


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

    Begin with `m3h run --source demo`, then `m3h ui`.
    """


@main.command()
@click.option(
    "--source",
    type=click.Choice(["demo", "mimic-iv", "meds", "haim", "tables"]),
    help="Where the data comes from.  [default: demo]",
)
@click.option("--path", type=click.Path(path_type=Path), help="The folder that holds the data (not for the demo).")
@click.option("--size", type=click.Choice(["full", "tiny"]), help="Of the demo: 1,500 stays, or 150 and six tasks.")
@click.option("--snapshot", metavar="DATE", help="The extraction's label.  [default: the last run's; at first today]")
@_OUT
def run(source: str | None, path: Path | None, size: str | None, snapshot: str | None, out: Path) -> None:
    """Materialise the whole graph once: from the source to a report and a registered model.

    What has not changed since the last run is taken as it is.
    """
    from m3h_pipeline.run import run_once

    sys.exit(run_once(out, source, path, size, snapshot))


@main.command()
@click.option("--port", default=3000, show_default=True, help="Dagster's port.")
@click.option("--mlflow-port", default=5000, show_default=True, help="MLflow's port.")
@_OUT
def ui(port: int, mlflow_port: int, out: Path) -> None:
    """Dagster (webserver and daemon) and MLflow on this machine's loopback, until Ctrl-C."""
    from m3h_pipeline.ui import serve

    sys.exit(serve(out, port, mlflow_port))


@main.group()
def review() -> None:
    """Decide which version scores: list, show, approve, reject, rollback.

    The sensor `review`, which runs with `m3h ui`, carries decisions out.
    """


_WHO = click.option("--reviewer", metavar="NAME", help="Who decides.  [default: the system user]")
_WHY = click.option("--reason", default="", help="Why; it stands in the audit table.")


@review.command("list")
@_OUT
def review_list(out: Path) -> None:
    """All versions, and who decided what about them."""
    from m3h_pipeline.review import overview

    click.echo(overview(out.absolute()))


@review.command()
@click.argument("version", required=False)
@_OUT
def show(version: str | None, out: Path) -> None:
    """The model card of VERSION, by default of the only one that waits."""
    from m3h_pipeline.review import card

    click.echo(card(out.absolute(), version))


@review.command()
@click.argument("version", required=False)
@_WHO
@_WHY
@_OUT
def approve(version: str | None, reviewer: str | None, reason: str, out: Path) -> None:
    """Make VERSION the champion; by default the only one that waits."""
    from m3h_pipeline.review import APPROVED, decide

    click.echo(decide(out.absolute(), APPROVED, version, reviewer, reason))


@review.command()
@click.argument("version", required=False)
@_WHO
@_WHY
@_OUT
def reject(version: str | None, reviewer: str | None, reason: str, out: Path) -> None:
    """Decide against VERSION; if it is the champion, the previous one takes its place."""
    from m3h_pipeline.review import REJECTED, decide

    click.echo(decide(out.absolute(), REJECTED, version, reviewer, reason))


@review.command()
@_WHO
@_WHY
@_OUT
def rollback(reviewer: str | None, reason: str, out: Path) -> None:
    """Reject the champion, so that the previous one is champion again."""
    from m3h_pipeline.review import roll_back

    click.echo(roll_back(out.absolute(), reviewer, reason))


@main.command()
@click.option("--version", help="Score with this version.  [default: the one with the alias]")
@click.option("--alias", default="champion", show_default=True, help="Score with the version that has this alias.")
@click.option("--all", "everyone", is_flag=True, help="Everyone, not only those still in hospital and those new to it.")
@click.option("--snapshot", metavar="DATE", help="Whose samples.  [default: the last run's]")
@_OUT
def score(version: str | None, alias: str, everyone: bool, snapshot: str | None, out: Path) -> None:
    """The champion's scores of a snapshot's samples, into latest/scores.parquet and scores.duckdb."""
    from m3h_pipeline.run import score_once

    sys.exit(score_once(out, version or "", alias, everyone, snapshot))


@main.command()
@click.argument("subject")
@click.option("--yes", is_flag=True, help="Erase without asking.")
@_OUT
def forget(subject: str, yes: bool, out: Path) -> None:
    """Erase the patient SUBJECT from every snapshot, cache and quarantine, and leave them out from now on.

    SUBJECT is the id as in the column subject_id of the samples. Says which registered models had learned from them.
    An erasure that was interrupted is finished by the same command, or by the next run.
    """
    from m3h_pipeline.forgetting import forget_and_say

    sys.exit(forget_and_say(out.absolute(), subject, ask=None if yes else click.confirm))


@main.command("demo-hospital")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="Folder to write; it must not exist yet.")
@click.option("--stays", default=1500, show_default=True, type=click.IntRange(min=1), help="Number of hospital stays.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same bytes.")
def demo_hospital(to: Path, stays: int, seed: int) -> None:
    """Write a synthetic hospital in MIMIC-IV's own layout."""
    from m3h_pipeline.sources.demo_hospital import write_demo_hospital

    if to.exists():
        raise InputError(f"{to} is there already: name a folder that does not exist")
    with click.progressbar(length=stays, label="stays", file=sys.stderr) as bar:
        write_demo_hospital(to, stays, seed, on_progress=lambda done, _: bar.update(done - bar.pos))
    click.echo(f"{stays} stays in {to}; read them with: m3h run --source mimic-iv --path {to}")


if __name__ == "__main__":
    main()
