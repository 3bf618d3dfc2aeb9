"""One finished run of the tiny demo, for all tests that look at what a run leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from opened_files import FileEvent, watch_files
from shared_folder import SharedFolder

from m3h_pipeline import config

# As little training as still runs every part; nothing that a test looks at comes of more.
SMALL = {
    "training": {"epochs": 6, "tree_rounds": 5, "bootstrap": 100},
    "tim": {"tasks": 3},
}
_RESULT = "result.json"
_EVENTS = "events.json"


@dataclass(frozen=True)
class DemoRun:
    """A finished run: its out-folder, what the command printed, and what it opened."""

    shared: SharedFolder

    @property
    def out(self) -> Path:
        """The out-folder, to be read only."""
        return self.shared.path / "out"

    @property
    def snapshot(self) -> Path:
        """Its one snapshot."""
        return self.out / "snapshots" / "2026-01-01"

    @property
    def result(self) -> subprocess.CompletedProcess[str]:
        """What the command printed."""
        printed = json.loads((self.shared.path / _RESULT).read_text())
        return subprocess.CompletedProcess([], 0, *printed)

    @property
    def events(self) -> list[FileEvent]:
        """The files that were opened in its snapshot, in order."""
        rows = json.loads((self.shared.path / _EVENTS).read_text())
        return [FileEvent(Path(path), is_open) for path, is_open in rows]

    def copy_to(self, folder: Path) -> Path:
        """A copy of the out-folder for a test that changes it; its records name the new place."""
        return self.shared.copy_to(folder) / "out"


def configure(out: Path, **sections: dict[str, object]) -> None:
    """Write the m3h.toml of the tiny demo, with these settings over `SMALL`."""
    settings = config.configure_run(out, "demo", None, "tiny", None).model_dump()
    for chosen in (SMALL, sections):
        for name, values in chosen.items():
            settings[name] |= values
    out.mkdir(parents=True, exist_ok=True)
    config.save(config.Config.model_validate(settings), out)


def make(folder: Path) -> None:
    """Run it, in ``folder/out``; what it printed and opened is kept beside it."""
    out = folder / "out"
    configure(out)
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "run", "--out", str(out)]
    with watch_files(folder, lambda inside: is_of_snapshots(inside, out)) as events:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=550, check=False, env=dict(os.environ)
        )
    assert result.returncode == 0, result.stderr
    (folder / _RESULT).write_text(json.dumps([result.stdout, result.stderr]))
    rows = [[str(event.path), event.is_open] for event in events]
    (folder / _EVENTS).write_text(json.dumps(rows))


def is_of_snapshots(folder: Path, out: Path) -> bool:
    """Whether a folder is, or leads to, one of the out-folder's steps."""
    return folder == out or folder.is_relative_to(out / "snapshots")
