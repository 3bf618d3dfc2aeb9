"""A copy of a CSV text in which rows that can't be split into fields are marked, and no other is
lost.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TextIO

from m3h_pipeline.sources.raw_tables.csv_text import LONGEST_ROW

# The column that a repaired copy has more.
MARK = "m3h_broken"


def repair_csv(lines: Iterable[str], width: int, to: TextIO) -> None:
    """Copy a CSV text with one more column that says what is wrong with a row; such a row has no
    fields.

    >>> out = io.StringIO(newline="")
    >>> lines = ['a,b\\n', '1,2\\n', '3\\n', '4,"x\\n', '5,6\\n', '7,"two\\n', 'lines"\\n']
    >>> repair_csv(lines, 2, out)
    >>> print(out.getvalue().replace("\\r", ""), end="")
    a,b,m3h_broken
    1,2,
    ,,"row: 1 fields, expected 2"
    ,,row: a quote or line end is out of place
    5,6,
    7,"two
    lines",
    """
    csv.field_size_limit(LONGEST_ROW)
    writer = csv.writer(to)
    for number, (fields, problem) in enumerate(_split_records(lines, width)):
        row = [""] * width if problem else fields
        writer.writerow([*row, MARK if number == 0 else problem])


def _split_records(lines: Iterable[str], width: int) -> Iterator[tuple[list[str], str]]:
    """Fields of each record and what is wrong with it.

    An open quote may go on in the next lines. Where that leads to no record of the right width, the
    first line alone is wrong, and reading goes on at the second.
    """
    source = iter(lines)
    ahead: deque[str] = deque()
    while (first := ahead.popleft() if ahead else next(source, None)) is not None:
        if not first.strip("\r\n"):
            # DuckDB, too, takes an empty line for none.
            continue
        more: list[str] = []
        quotes = first.count('"')
        size = len(first)
        while quotes % 2 and size < LONGEST_ROW:
            line = ahead.popleft() if ahead else next(source, None)
            if line is None:
                break
            more.append(line)
            quotes += line.count('"')
            size += len(line)
        fields = _parse_fields("".join([first, *more]))
        if more and (fields is None or len(fields) != width):
            ahead.extendleft(reversed(more))
            fields = _parse_fields(first)
        if fields is not None and len(fields) == width:
            yield fields, ""
        elif len(first) >= LONGEST_ROW:
            yield [], "row: too long"
        elif fields is None:
            yield [], "row: a quote or line end is out of place"
        else:
            yield [], f"row: {len(fields)} fields, expected {width}"


def _parse_fields(record: str) -> list[str] | None:
    """The fields of one record, None where it is too long or its quotes are wrong."""
    if len(record) >= LONGEST_ROW:
        return None
    try:
        rows = list(csv.reader(io.StringIO(record, newline=""), strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None
