"""An erasure that was killed, at whatever place, is finished by what comes next."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from patient_steps import DAY, keys_of, read_contents
from traces import files_with

from m3h_pipeline.erasure.forgetting import finish_erasure, forget
from m3h_pipeline.erasure.forgotten import FILE, Forgotten

pytestmark = pytest.mark.slow(40)


class Killed(BaseException):
    """What a kill does, at a place of our choice."""


@pytest.fixture(scope="module")
def small(whole, tmp_path_factory) -> Path:
    """One snapshot only: it is erased many times."""
    out = tmp_path_factory.mktemp("small") / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(DAY))
    return out


def test_a_kill_anywhere_is_made_good(small, whole, tmp_path, monkeypatch, patient):
    """Stopped before every single rename and removal in turn, then finished by what the next run
    calls first.
    """
    shutil.copytree(small, tmp_path / "expected")
    forget(tmp_path / "expected", patient)
    expected = read_contents(tmp_path / "expected")
    words = keys_of(whole, patient)
    left = -1

    def counted(call):
        def wrapper(*arguments, **named):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return call(*arguments, **named)

        return wrapper

    for module, name in (
        (os, "replace"),
        (Path, "rename"),
        (Path, "replace"),
        (shutil, "rmtree"),
        (os, "link"),
    ):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    places = 0
    place = 1
    while True:
        out = Path(shutil.copytree(small, tmp_path / f"out{place}"))
        left = place
        try:
            forget(out, patient)
            break
        except Killed:
            places += 1
        left = -1
        if (out / FILE).exists():
            finish_erasure(out)
        else:
            forget(out, patient)
        assert read_contents(out) == expected, place
        assert files_with(out, words) == [], place
        shutil.rmtree(out)
        place += 37  # a prime: over the places of all steps, not all of one
    assert places >= 5


def test_a_killed_process_is_finished_by_the_next_command(out, whole, patient):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from m3h_pipeline.erasure import forgetting
        from m3h_pipeline.state import steps
        folders = []
        replace_folder = steps.replace_folder
        def kill_at_the_twelfth(new, folder):
            folders.append(folder)
            if len(folders) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            replace_folder(new, folder)
        steps.replace_folder = kill_at_the_twelfth
        forgetting.forget(Path(sys.argv[1]), sys.argv[2])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(out), patient], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert files_with(out, keys_of(whole, patient))
    assert Forgotten.load(out).is_pending
    forget(out, patient)
    assert files_with(out, keys_of(whole, patient)) == []
    assert not Forgotten.load(out).is_pending
