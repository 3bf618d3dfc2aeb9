"""A file of the source that is replaced while it is read: nothing of it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tables_folder

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Settings, extract
from m3h_pipeline.sources.tables import Tables
from m3h_pipeline.state.steps import produce


class ReplacedTables(Tables):
    """A folder into which the next extraction is copied before this one was read to its end."""

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        facts = super().extract(to, settings)
        events = self.path / "events.csv"
        replacement = self.path / ".events.csv.partial"
        replacement.write_text(events.read_text() + "\n")
        replacement.replace(events)
        return facts


def test_a_file_that_is_replaced_while_it_is_read(tmp_path):
    root = tables_folder.write(tmp_path / "hospital", tables_folder.hospital())
    step = tmp_path / "ingested"
    with pytest.raises(InputError, match=r"replaced while it was read.*Run again"):
        produce(step, "key", lambda to: extract(ReplacedTables(root), to, Settings()))
    assert not step.exists()
    produce(step, "key", lambda to: extract(Tables(root), to, Settings()))
    assert (step / "events.parquet").is_file()
