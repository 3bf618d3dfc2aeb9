"""The least training that still runs every part, for tests of what lies around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m3h_pipeline import config

SECTIONS: dict[str, dict[str, Any]] = {
    "training": {"epochs": 3, "tree_rounds": 5, "bootstrap": 100},
    "tim": {"tasks": 2, "seeds": 1, "groups": 0, "leave_out": 0},
    # To start a process takes longer than all that it would train.
    "launcher": {"workers": 1},
}


def save_small(chosen: config.Config, out: Path, **sections: dict[str, Any]) -> None:
    """Write the m3h.toml of an out-folder with these settings over `SECTIONS`."""
    settings = chosen.model_dump()
    for changed in (SECTIONS, sections):
        for name, values in changed.items():
            settings[name] |= values
    out.mkdir(parents=True, exist_ok=True)
    config.save(config.Config.model_validate(settings), out)
