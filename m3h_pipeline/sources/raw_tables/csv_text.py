"""The text of a CSV file: how long a row may be, and lines whatever the bytes are."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from m3h_pipeline.files.gzip_file import open_unpacked

# A longer row is no row but a lost quote or a binary accident; the longest notes have some 60,000
# characters.
LONGEST_ROW = 1_000_000
# Stands for bytes that are no UTF-8.
UNDECODABLE = "\ufffd"


@contextmanager
def open_text(file: Path) -> Generator[TextIO]:
    """Lines of a CSV file with their ends; bytes that are no UTF-8 become U+FFFD. An `InputError`
    where reading them shows that the file was cut off or is damaged.
    """
    if file.stat().st_size == 0:
        yield io.StringIO()
        return
    with (
        open_unpacked(file) as binary,
        io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="\n") as text,
    ):
        yield text
