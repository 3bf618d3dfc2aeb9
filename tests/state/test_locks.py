"""Locks on files: who waits for whom, and what the file holds stays."""

import pytest

from m3h_pipeline.state.locks import hold_lock, is_locked, lock_exclusively, lock_shared


def test_a_lock_leaves_the_content_of_its_file(tmp_path):
    file = tmp_path / "ui.lock"
    file.write_text("served by 1")
    with hold_lock(file, shared=True):
        assert is_locked(file)
    assert not is_locked(file)
    assert file.read_text() == "served by 1"


def test_steps_are_made_together_and_changed_alone(tmp_path):
    with (
        lock_shared(tmp_path),
        lock_shared(tmp_path),
        pytest.raises(BlockingIOError),
        lock_exclusively(tmp_path, wait=False),
    ):
        pass
    with lock_exclusively(tmp_path, wait=False):
        assert is_locked(tmp_path / ".lock")
