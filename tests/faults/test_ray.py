"""Jobs on a real Ray cluster of two nodes, of which one is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_an_embedding_says_what_is_wrong_survives_the_loss_of_a_node_and_a_training_completes(
    tmp_path,
):
    """In a network of its own: Ray listens on every address."""
    for package in ("ray", "dagster_ray"):
        pytest.importorskip(package, reason='Ray is not installed: pip install "m3h[ray]"')
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "ip"))):
        pytest.skip("a network of its own needs root, unshare and ip")
    here = Path(__file__).parent
    script = f"ip link set lo up && {sys.executable} {here / 'ray_cluster.py'} {tmp_path}"
    more = {
        "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")]),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's socket paths must be short.
        "RAY_TMPDIR": "/tmp",
    }
    done = subprocess.run(
        ["unshare", "-n", "-p", "--fork", "--mount-proc", "bash", "-c", script],
        env=os.environ | more,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    print(done.stdout)
    assert (
        "a mistake: language: checkpoint '/nowhere' is neither a folder nor a hub name"
        in done.stdout
    )
    assert "the vectors are those of one machine" in done.stdout
