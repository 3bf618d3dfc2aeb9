"""Where MLflow keeps what it knows of an out-folder."""

from __future__ import annotations

import os
from pathlib import Path

EXPERIMENT = "m3h"


def mlflow_uri(out: Path) -> str:
    """MLflow's tracking store of an out-folder; ``MLFLOW_TRACKING_URI`` takes its place."""
    own = (out / "mlflow" / "mlflow.db").resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{own}"
