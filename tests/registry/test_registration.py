"""By what code a registered version was made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from m3h_pipeline.registry import registration
from m3h_pipeline.registry.registration import collect_provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout with one commit, laid out as this one is."""
    for folder in ("m3h_pipeline", "m3h_core", "data_contracts", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.txt").write_text("as committed")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(registration, "contracts_folder", lambda: tmp_path / "data_contracts")
    return tmp_path


@pytest.mark.parametrize("folder", ["m3h_pipeline", "m3h_core", "data_contracts"])
def test_a_version_says_that_its_code_was_changed_since_the_commit(checkout, folder):
    commit = collect_provenance()["git.commit"]
    assert len(commit) == 40
    (checkout / "docs" / "file.txt").write_text("changed")
    assert collect_provenance()["git.commit"] == commit
    (checkout / folder / "file.txt").write_text("changed")
    assert collect_provenance()["git.commit"] == f"{commit} with changes"
