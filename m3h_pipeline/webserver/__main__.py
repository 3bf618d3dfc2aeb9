"""Serve Dagster's pages behind the guard, as ``dagster-webserver`` serves them without.

    python -m m3h_pipeline.webserver --port 3000
    python -m m3h_pipeline.webserver --host 0.0.0.0 --allowed-host m3h.hospital.example

``M3H_UI_TOKEN`` in the environment, or a file by ``--token-file``, sets a token that every request
needs. Dagster's own server offers no hook for this, so the application is put together here. Where
a new version of Dagster moves one of its parts, this fails at its start: nothing is served
unguarded.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.permissions import set_private_umask
from m3h_pipeline.webserver.guard import LOOPBACK, Guard

TOKEN_VARIABLE = "M3H_UI_TOKEN"
_SHORTEST_TOKEN = 16
_DEFINITIONS = "m3h_pipeline.definitions"


@click.command()
@click.option("--host", "-h", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", "-p", default=3000, show_default=True)
@click.option(
    "--path-prefix", default="", help="Where a proxy serves it below a path, such as /dagster."
)
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True,
    help="A name, besides the loopback's, under which people address it; may be repeated.",
)  # fmt: skip
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that holds the token.",
)
@click.option(
    "--read-only", is_flag=True, help="Nobody can launch or change anything from the pages."
)
def main(
    host: str,
    port: int,
    path_prefix: str,
    allowed_hosts: tuple[str, ...],
    token_file: Path | None,
    read_only: bool,
) -> None:
    """Serve Dagster's pages, guarded against other web pages."""
    set_private_umask()
    try:
        token = read_token(token_file)
    except InputError as error:
        raise click.ClickException(str(error)) from None
    # Seconds of imports, after what can be refused at once.
    import uvicorn
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    with (
        DagsterInstance.get() as instance,
        WorkspaceProcessContext(
            instance,
            workspace_load_target=ModuleTarget(_DEFINITIONS, None, None, None),
            read_only=read_only,
        ) as context,
    ):
        instance.optimize_for_webserver(
            statement_timeout=15_000, pool_recycle=3600, max_overflow=20
        )
        app = create_app_from_workspace_process_context(context, path_prefix)
        guarded = Guard(app, [*LOOPBACK, *allowed_hosts], token)
        uvicorn.run(guarded, host=host, port=port, log_level="warning")


def read_token(file: Path | None) -> str:
    """The token from the file or the environment, empty where there is none.

    Raises `InputError` where the file can't be read, or the token is too short to keep anybody out.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
    else:
        try:
            token = file.read_text().strip()
        except OSError as error:
            raise InputError(
                f"{file} can't be read ({error.strerror}): it must hold the token"
            ) from None
    if (token or file) and len(token) < _SHORTEST_TOKEN:
        raise InputError(
            f"the token has fewer than {_SHORTEST_TOKEN} characters: make one with `openssl rand "
            "-hex 32`"
        )
    return token


if __name__ == "__main__":
    main()
