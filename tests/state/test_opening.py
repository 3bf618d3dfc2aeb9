"""An out-folder whose steps have the names that an earlier version gave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3h_pipeline.defs.io_manager import step_name
from m3h_pipeline.errors import InputError
from m3h_pipeline.state import pages
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.opening import open_out_folder
from m3h_pipeline.state.steps import produce, read_step

FORMER = {
    "joint": "m3h_model",
    "single_task": "single_task_models",
    "trees": "tree_models",
    "tim": "tim_report",
    "valid/samples": "valid_samples",
    "valid/events": "valid_events",
    "embedding/vision": "vision_embedding",
}
UNCHANGED = ("ingested", "inputs", "cohort", "quality", "modalities")


def write_name(to: Path) -> None:
    (to / "name").write_text(to.name)


def list_names(snapshot: Path) -> list[str]:
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.iterdir())


@pytest.fixture
def out(tmp_path) -> Path:
    """Two snapshots of an earlier version."""
    for day in ("2026-01-01", "2026-01-02"):
        for name in (*FORMER, *UNCHANGED):
            produce(tmp_path / "snapshots" / day / name, name, write_name)
    return tmp_path


def versions(out: Path) -> dict[str, str]:
    snapshot = out / "snapshots" / "2026-01-02"
    steps = {name: read_step(snapshot / name) for name in (*FORMER.values(), *UNCHANGED)}
    return {name: step.version for name, step in steps.items() if step}


def test_each_step_gets_the_name_of_its_asset(out):
    expected = {
        FORMER.get(name, name): read_step(out / "snapshots/2026-01-02" / name).version
        for name in (*FORMER, *UNCHANGED)
    }
    open_out_folder(out)
    assert versions(out) == expected
    for day in ("2026-01-01", "2026-01-02"):
        left = [name for name in list_names(out / "snapshots" / day) if not name.startswith(".")]
        assert left == sorted(expected)
    assert {step_name(name) for name in FORMER.values()} == set(FORMER.values())
    before = list_names(out / "snapshots" / "2026-01-02")
    open_out_folder(out)
    assert list_names(out / "snapshots" / "2026-01-02") == before


def test_what_a_kill_left_of_a_former_step_is_put_right(out):
    snapshot = out / "snapshots" / "2026-01-02"
    # Killed between the two renames of `replace_folder`, and while steps were being made.
    (snapshot / "joint").rename(snapshot / ".joint.old")
    (snapshot / "valid" / "events").rename(snapshot / "valid" / ".events.old")
    for partial in (snapshot / ".trees.partial", snapshot / "embedding" / ".vision.partial"):
        partial.mkdir()
        (partial / "patients").write_text("of a patient")
    open_out_folder(out)
    assert len(versions(out)) == len(FORMER) + len(UNCHANGED)
    assert not list(out.rglob("patients"))
    assert not list(out.rglob("*.old"))


@pytest.mark.parametrize("renamed", range(len(FORMER)))
def test_an_interrupted_renaming_is_done_again(out, monkeypatch, renamed):
    rename = Path.rename
    done = []

    def rename_some(path: Path, to: Path) -> Path:
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_some)
        with pytest.raises(KeyboardInterrupt):
            open_out_folder(out)
    open_out_folder(out)
    assert len(versions(out)) == len(FORMER) + len(UNCHANGED)


def test_a_step_of_this_version_stays_where_both_are(out):
    snapshot = out / "snapshots" / "2026-01-02"
    newer = produce(snapshot / "m3h_model", "key", write_name)
    open_out_folder(out)
    assert read_step(snapshot / "m3h_model") == newer
    assert not (snapshot / "joint").exists()


def test_while_somebody_is_at_work_it_is_refused(out):
    with lock_shared(out), pytest.raises(InputError, match="a run is at work in it: wait"):
        open_out_folder(out)
    with (
        pages.lock_server(out),
        pytest.raises(InputError, match="`m3h ui` serves it: end that first"),
    ):
        open_out_folder(out)
    assert (out / "snapshots/2026-01-02/joint").exists()
    open_out_folder(out)
    assert (out / "snapshots/2026-01-02/m3h_model").exists()
