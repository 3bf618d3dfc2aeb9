"""One finished run of the tiny demo, for all tests that look at what a run leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from m3h_pipeline import config

# As little training as still runs every part; nothing that a test looks at comes of more.
SMALL = {
    "training": {"epochs": 3, "tree_rounds": 5, "bootstrap": 100},
    "tim": {"tasks": 3},
}
_RESULT = "result.json"


def configure(out: Path, **sections: dict[str, object]) -> None:
    """Write the m3h.toml of the tiny demo, with these settings over `SMALL`."""
    settings = config.configure_run(out, "demo", None, "tiny", None).model_dump()
    for chosen in (SMALL, sections):
        for name, values in chosen.items():
            settings[name] |= values
    out.mkdir(parents=True, exist_ok=True)
    config.save(config.Config.model_validate(settings), out)


def make(folder: Path) -> None:
    """Run it, in ``folder/out``; what the command said is kept beside it."""
    out = folder / "out"
    configure(out)
    words = ["run", "--source", "demo", "--size", "tiny", "--out", str(out)]
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", *words]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=550, check=False, env=dict(os.environ)
    )
    assert result.returncode == 0, result.stderr
    (folder / _RESULT).write_text(json.dumps([result.stdout, result.stderr]))


def result_of(folder: Path) -> subprocess.CompletedProcess[str]:
    """What the command said."""
    return subprocess.CompletedProcess([], 0, *json.loads((folder / _RESULT).read_text()))
