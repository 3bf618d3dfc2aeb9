"""The private folder of a command: closed, gone afterwards, and cleared after a kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from m3h_pipeline.cli.out_folder import prepare_folder
from m3h_pipeline.state.scratch import clear_private_folders, open_private_folder

_KILLED = """
import os, signal, sys
from pathlib import Path
from m3h_pipeline.state.scratch import open_private_folder
with open_private_folder(Path(sys.argv[1])) as private:
    (private / "weights").write_text("weights")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def after_kill(tmp_path) -> Path:
    """An out-folder in which a process was killed that had a private folder open."""
    subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
    assert list(tmp_path.rglob("weights"))
    return tmp_path


def test_it_is_its_owner_s_alone_and_gone_afterwards(tmp_path):
    with open_private_folder(tmp_path) as private:
        assert private.is_relative_to(tmp_path)
        for folder in (private, private.parent):
            assert folder.stat().st_mode & 0o777 == 0o700
    assert not private.exists()


def test_the_next_private_folder_clears_what_a_kill_left(after_kill):
    with open_private_folder(after_kill) as private:
        assert list(private.parent.iterdir()) == [private]


def test_the_next_run_clears_what_a_kill_left(after_kill, monkeypatch):
    for variable in ("DAGSTER_HOME", "M3H_OUT"):
        monkeypatch.delenv(variable, raising=False)
    prepare_folder(after_kill, "demo", None, "tiny")
    assert not list(after_kill.rglob("weights"))


def test_what_another_process_uses_stays(tmp_path):
    with open_private_folder(tmp_path) as private:
        clear_private_folders(tmp_path)
        with open_private_folder(tmp_path) as second:
            assert private.exists()
            assert second != private
