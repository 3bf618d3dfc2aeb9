"""Where the files lie that ship beside the code: in a checkout at its root, in the wheel under ``_data``."""

from __future__ import annotations

from pathlib import Path

from m3h_pipeline.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def contracts_folder() -> Path:
    """The folder of the data contracts, ``tasks.yaml`` and ``signals.yaml``.

    >>> (contracts_folder() / "samples.odcs.yaml").is_file()
    True
    """
    return _shipped("data_contracts")


def dagster_template() -> Path:
    """The file ``dagster.yaml`` that a new out-folder starts from."""
    return _shipped("dagster_home") / "dagster.yaml"


def _shipped(name: str) -> Path:
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InputError(f"{name} is neither in {_PACKAGE / '_data'} nor in {_PACKAGE.parent}: install m3h again")
