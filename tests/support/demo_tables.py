"""The tables of MIMIC-IV's demo, as its source reads them."""

from __future__ import annotations

import json
from pathlib import Path

from m3h_pipeline.config import open_source
from m3h_pipeline.sources import Settings

COUNTS = "counts.json"


def read_demo(demo: Path, to: Path) -> None:
    """Read 100 real patients, which takes seconds; beside their tables stands what was counted."""
    to.mkdir()
    counts = open_source("mimic-iv", demo).extract(to, Settings())
    (to / COUNTS).write_text(json.dumps(counts))
