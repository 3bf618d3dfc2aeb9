"""The joint model's losses: a file beside the model, an epoch a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CURVES = ".curves.jsonl"
RECURRENT_CURVES = ".recurrent_curves.jsonl"


def read_curves(file: Path) -> dict[int, dict[str, Any]]:
    """Epochs by their number; what was trained twice ended with the same losses. A line that a kill
    cut off is none.
    """
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    states = [json.loads(line) for line in lines if line.endswith("}\n")]
    return {state["epoch"]: state for state in states}
