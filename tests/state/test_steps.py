"""Step folders: computed once, whole or not at all, resumed where a run was killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from m3h_pipeline.state.steps import hash_folder, make_key, open_scratch_folder, produce, read_step


def _write(text, calls):
    def build(to):
        calls.append(to)
        (to / "result.txt").write_text(text)
        return {"rows": 1}

    return build


def test_unchanged_key_is_not_computed_again(tmp_path):
    calls = []
    first = produce(tmp_path / "step", "key", _write("a", calls))
    second = produce(tmp_path / "step", "key", _write("a", calls))
    assert len(calls) == 1
    assert not first.reused
    assert second.reused
    assert second.version == first.version
    assert second.info == {"rows": 1}


def test_changed_key_replaces_the_folder(tmp_path):
    calls = []
    first = produce(tmp_path / "step", "one", _write("a", calls))
    second = produce(tmp_path / "step", "two", _write("b", calls))
    assert (tmp_path / "step" / "result.txt").read_text() == "b"
    assert first.version != second.version
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["step"]


def test_same_bytes_give_the_same_version_whatever_the_key(tmp_path):
    assert (
        produce(tmp_path / "a", "one", _write("x", [])).version
        == produce(tmp_path / "b", "two", _write("x", [])).version
    )


def test_failure_leaves_the_earlier_step_untouched(tmp_path):
    produce(tmp_path / "step", "one", _write("a", []))

    def fails(to):
        (to / "result.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        produce(tmp_path / "step", "two", fails)
    assert (tmp_path / "step" / "result.txt").read_text() == "a"
    assert read_step(tmp_path / "step").key == "one"


def test_interrupted_step_goes_on_only_for_the_same_key(tmp_path):
    def leaves_a_checkpoint(to):
        (to / "checkpoint").write_text("epoch 3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce(tmp_path / "step", "one", leaves_a_checkpoint)
    seen = []
    produce(tmp_path / "step", "one", lambda to: seen.append((to / "checkpoint").exists()))
    with pytest.raises(KeyboardInterrupt):
        produce(tmp_path / "step", "two", leaves_a_checkpoint)
    produce(tmp_path / "step", "three", lambda to: seen.append((to / "checkpoint").exists()))
    assert seen == [True, False]


def test_hidden_files_do_not_change_the_version(tmp_path):
    (tmp_path / "a").write_text("a")
    before = hash_folder(tmp_path)
    (tmp_path / ".facts.json").write_text("seconds")
    assert hash_folder(tmp_path) == before


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_kill_leaves_the_old_step_or_the_new_one(tmp_path, delay):
    produce(tmp_path / "step", "old", _write("old" * 1000, []))
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from m3h_pipeline.state.steps import produce
        folder = Path(sys.argv[1])

        def build(to):
            (to / "result.txt").write_text("new" * 1000)

        print("ready", flush=True)
        for i in range(10_000):
            produce(folder, f"new {i}", build)
        """
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "step")], stdout=subprocess.PIPE
    )
    worker.stdout.readline()
    time.sleep(delay)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    # The next run of any key finds the lock free and ends with a whole step.
    step = produce(tmp_path / "step", "after", _write("after", []))
    assert step.version == hash_folder(tmp_path / "step")
    assert (tmp_path / "step" / "result.txt").read_text() == "after"


def test_two_processes_build_a_step_once(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from m3h_pipeline.state.steps import produce
        def build(to):
            time.sleep(0.5)
            (to / "result.txt").write_text("x")
        print(produce(Path(sys.argv[1]), "key", build).reused)
        """
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "step")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert sorted(worker.communicate()[0].strip() for worker in workers) == ["False", "True"]


def test_step_key_depends_on_every_part():
    assert len({make_key("a"), make_key("b"), make_key("a", None), make_key("a", {"x": 1})}) == 4


def test_a_killed_job_leaves_its_scratch_files_to_the_next_one(tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from m3h_pipeline.state.steps import open_scratch_folder, produce

        def build(to):
            with open_scratch_folder(to) as scratch:
                (scratch / "model.bin").write_text("a copy")
                os.kill(os.getpid(), signal.SIGKILL)

        produce(Path(sys.argv[1]), "key", build)
        """
    )
    step = tmp_path / "out" / "step"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", script, str(step)],
        env={**os.environ, "TMPDIR": str(temporary)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(temporary.iterdir()) == []
    assert [file.name for file in step.parent.rglob("model.bin")] == ["model.bin"]

    def build(to):
        with open_scratch_folder(to) as scratch:
            assert list(scratch.iterdir()) == []

    produce(step, "key", build)
    assert list(step.parent.rglob("model.bin")) == []
    assert [path.name for path in step.iterdir()] == ["step.json"]
