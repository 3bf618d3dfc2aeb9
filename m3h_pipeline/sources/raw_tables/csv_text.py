"""The text of a CSV file: how long a row may be, and lines whatever the bytes are."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TextIO

# A longer row is no row but a lost quote or a binary accident; the longest notes have some 60,000
# characters.
LONGEST_ROW = 1_000_000
# Bytes that are read at a time.
BLOCK_SIZE = 1 << 16
# Stands for bytes that are no UTF-8.
UNDECODABLE = "\ufffd"


def open_text(file: Path) -> TextIO:
    """Lines of a CSV file with their ends; bytes that are no UTF-8 become U+FFFD."""
    if file.stat().st_size == 0:
        return io.StringIO()
    binary = gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # noqa: SIM115 closed by its wrapper
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="\n")
