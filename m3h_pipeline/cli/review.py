"""``m3h review``: decide which version scores."""

from __future__ import annotations

from pathlib import Path

import click

from m3h_pipeline.cli.options import OUT, require_out_folder


@click.group()
def review() -> None:
    """Decide which version scores.

    A decision takes effect at once, whether or not `m3h ui` runs.

    Example: m3h review list --out my-run
    """


_WHO = click.option("--reviewer", metavar="NAME", help="Who decides.  [default: the system user]")
_WHY = click.option("--reason", default="", help="Why; it stands in the audit table.")


@review.command("list")
@OUT
def review_list(out: Path) -> None:
    """List all versions, and who decided what about them.

    Example: m3h review list --out my-run
    """
    from m3h_pipeline.registry.listing import format_overview

    click.echo(format_overview(require_out_folder(out)))


@review.command()
@click.argument("version", required=False)
@OUT
def show(version: str | None, out: Path) -> None:
    """Show the model card of VERSION.

    By default, that of the only one that waits.

    Example: m3h review show 7 --out my-run
    """
    from m3h_pipeline.registry.listing import format_card

    click.echo(format_card(require_out_folder(out), version))


@review.command()
@click.argument("version", required=False)
@_WHO
@_WHY
@OUT
def approve(version: str | None, reviewer: str | None, reason: str, out: Path) -> None:
    """Make VERSION the champion.

    By default, the only one that waits.

    Example: m3h review approve 7 --reason "level with version 6, better calibrated" --out my-run
    """
    from m3h_pipeline.registry.review import decide
    from m3h_pipeline.registry.tags import APPROVED

    click.echo(decide(require_out_folder(out), APPROVED, version, reviewer, reason))


@review.command()
@click.argument("version", required=False)
@_WHO
@_WHY
@OUT
def reject(version: str | None, reviewer: str | None, reason: str, out: Path) -> None:
    """Decide against VERSION.

    If it is the champion, the previous one takes its place.

    Example: m3h review reject 7 --reason "drops in the emergency ward" --out my-run
    """
    from m3h_pipeline.registry.review import decide
    from m3h_pipeline.registry.tags import REJECTED

    click.echo(decide(require_out_folder(out), REJECTED, version, reviewer, reason))


@review.command()
@_WHO
@_WHY
@OUT
def rollback(reviewer: str | None, reason: str, out: Path) -> None:
    """Reject the champion.

    The previous one is champion again.

    Example: m3h review rollback --reason "alarms doubled overnight" --out my-run
    """
    from m3h_pipeline.registry.review import roll_back

    click.echo(roll_back(require_out_folder(out), reviewer, reason))


@review.command()
@click.argument("version")
@_WHO
@_WHY
@OUT
def anchor(version: str, reviewer: str | None, reason: str, out: Path) -> None:
    """Make VERSION the anchor.

    Each candidate is held against it beside the champion, so that small losses can't add up. The
    first version that is approved is it, until you move it here.

    Example: m3h review anchor 7 --reason "the tasks were defined anew" --out my-run
    """
    from m3h_pipeline.registry.anchor import move_anchor

    click.echo(move_anchor(require_out_folder(out), version, reviewer, reason))


@review.command()
@click.argument("version", required=False)
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Leave the files that were compared in this new folder.",
)
@OUT
def verify(version: str | None, to: Path | None, out: Path) -> None:
    """Compare the files of VERSION with those that were approved.

    By default, the champion's. Exit code 1 where they differ.

    Example: m3h review verify 7 --out my-run
    """
    from m3h_pipeline.registry.approval import verify

    click.echo(verify(require_out_folder(out), version, to))
