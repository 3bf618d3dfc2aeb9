"""What an out-folder's registry and audit table say, and verdicts to write into it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.audit import Audit
from m3h_pipeline.registry.tags import ANCHOR
from m3h_pipeline.registry.versions import RegistryState

NAME = tracking.MODEL_NAME
# For what the two databases do differently: lines written and read, transactions that wait for
# each other, one that is rolled back.
on_both_databases = pytest.mark.parametrize("out", ["sqlite", "postgres"], indirect=True)


def get_client(out: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db")


def get_aliases(out: Path) -> dict[str, str]:
    """Who is what; the anchor has tests of its own."""
    state = RegistryState.fetch(get_client(out)).aliases
    return {alias: version for alias, version in state.items() if alias != ANCHOR}


def get_anchor(out: Path) -> str | None:
    return RegistryState.fetch(get_client(out)).aliases.get(ANCHOR)


def read_decisions(out: Path) -> list[tuple[str, str, str, str]]:
    return [(line.version, line.decision, line.who, line.why) for line in Audit(out).read_lines()]


def make_verdict(passed: bool, judged: int = 3) -> dict:
    check = {
        "name": "calibrated",
        "passed": passed,
        "reason": "off",
        "advice": "look at the curves",
    }
    trees = {"name": "not_worse_than_trees", "passed": False, "reason": "below", "severity": "warn"}
    return {"passed": passed, "judged": judged, "checks": [check, trees]}
