"""Where state lies, and the files that ship beside the code: in a checkout at its root, in the
wheel in ``_data``.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from m3h_pipeline.errors import InputError

# Where state lies unless a command says ``--out``.
DEFAULT_OUT = Path(".m3h")
# All settings of an out-folder.
CONFIG_FILE = "m3h.toml"
_PACKAGE = Path(__file__).resolve().parents[1]


def contracts_folder() -> Path:
    """The folder of the data contracts, ``tasks.yaml`` and ``signals.yaml``.

    >>> (contracts_folder() / "samples.odcs.yaml").is_file()
    True
    """
    return _shipped("data_contracts")


def dagster_template() -> Path:
    """The file ``dagster.yaml`` that a new out-folder starts from."""
    return _shipped("dagster_home") / "dagster.yaml"


def out_option(out: Path) -> str:
    """What a printed ``m3h`` command needs so that it means this out-folder; empty for the default
    one.

    >>> out_option(DEFAULT_OUT.absolute())
    ''
    >>> out_option(Path.cwd() / "my run")
    " --out 'my run'"
    """
    folder = out.absolute()
    if folder == DEFAULT_OUT.absolute():
        return ""
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f" --out {shlex.quote(str(shown))}"


def _shipped(name: str) -> Path:
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InputError(
        f"{name} is neither in {_PACKAGE / '_data'} nor in {_PACKAGE.parent}: install m3h again"
    )
