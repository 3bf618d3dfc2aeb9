"""What several commands share: the option ``--out``, and the check of the folder that it names."""

from __future__ import annotations

from pathlib import Path

import click

from m3h_pipeline.state.paths import DEFAULT_OUT

OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_OUT,
    show_default=True,
    help="Folder that holds all state: snapshots, Dagster's and MLflow's storage, reports.",
)


def require_out_folder(out: Path) -> Path:
    """An out-folder that a run has written; no other is made by asking about it."""
    from m3h_pipeline import config
    from m3h_pipeline.state.opening import open_out_folder

    config.load(out)
    open_out_folder(out)
    return out.absolute()
