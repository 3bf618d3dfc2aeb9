"""An out-folder whose file system has become read-only: told in a paragraph, nothing half-written.

Needs the right to mount a file system of its own, as root in a container has it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# In a mount namespace of its own: the folder is there for this process alone.
SCRIPT = """
mount -t tmpfs none "$1" || exit 77
"$2" -m m3h_pipeline.cli.main init --source demo --size tiny --out "$1/out" >/dev/null 2>&1
mkdir -p "$1/out/latest" && echo kept > "$1/out/latest/report.html"
mount -o remount,ro "$1" || exit 77
"$2" -m m3h_pipeline.cli.main run --source demo --size tiny --out "$1/out"; echo "exit $?"
"$2" -m m3h_pipeline.cli.main review list --out "$1/out"; echo "exit $?"
cat "$1/out/latest/report.html"
"""


def test_a_read_only_folder_is_named_and_left_as_it_is(tmp_path: Path):
    command = ["unshare", "--mount", "bash", "-c", SCRIPT, "bash", str(tmp_path), sys.executable]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if run.returncode in (1, 77, 127) and "exit" not in run.stdout:
        pytest.skip(f"no file system can be mounted here: {run.stderr.strip()[-200:]}")
    assert "Traceback" not in run.stderr
    run_message, review_message = run.stderr.strip().splitlines()[-2:]
    assert "can't be written (Read-only file system): choose another folder" in run_message
    assert review_message.startswith("Error: ")
    assert str(tmp_path) in review_message
    assert run.stdout.splitlines() == ["exit 1", "exit 1", "kept"]
