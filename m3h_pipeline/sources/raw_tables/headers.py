"""What may be said of a table's header: where it was lost, a patient's row stands in its place.

So only names that are known, or very similar to one, are ever told; of the others, how many there
are and where.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from m3h_pipeline.errors import SIMILAR

# A number, a date or a time: nobody calls a column so.
_VALUE = re.compile(r"[-+]?[\d.,:/\s tz+-]*\d[\d.,:/\s tz+-]*")
_MAX_NAMES = 40


def looks_like_row(columns: Sequence[str], needed: Collection[str]) -> bool:
    """Whether a first line is rather a row than a header.

    >>> looks_like_row(["9999001", "mustermann", "2024-03-01 08:00"], ["stay_id", "time"])
    True
    >>> looks_like_row(["visit", "time"], ["stay_id", "time"])
    False
    >>> looks_like_row(["a", "b"], ["stay_id"])
    False
    """
    n_needed = sum(name in needed for name in columns)
    return 2 * n_needed < len(needed) and any(_VALUE.fullmatch(name) for name in columns)


def describe_columns(columns: Sequence[str], vocabulary: Collection[str]) -> str:
    """The known names of a header, and how many others it has.

    >>> describe_columns(["time", "mustermann", "code"], {"time", "code"})
    'it has time, code and 1 of another name'
    >>> describe_columns(["a", "b"], {"time"})
    'it has 2 columns, none with a name that is known here'
    """
    known_columns = [name for name in columns if name in vocabulary]
    n_others = len(columns) - len(known_columns)
    if not known_columns:
        return f"it has {format_count(n_others)}, none with a name that is known here"
    rest = f" and {n_others:,} of another name" if n_others else ""
    return f"it has {join_names(known_columns)}{rest}"


def select_known_names(columns: Iterable[str], vocabulary: Collection[str]) -> list[str]:
    """The names that are known, or very similar to one.

    >>> select_known_names(["charttime", "mustermann", "result_dt"], ["charttime", "result_time"])
    ['charttime', 'result_dt']
    """
    return [
        name
        for name in columns
        if name in vocabulary or difflib.get_close_matches(name, vocabulary, 1, SIMILAR)
    ]


def list_positions(columns: Sequence[str], wanted: Collection[str]) -> str:
    """Where names stand, from 1.

    >>> list_positions(["a", "b", "a"], {"a"})
    '1 and 3'
    """
    numbers = [str(i) for i, name in enumerate(columns, start=1) if name in wanted]
    return " and ".join(numbers[:_MAX_NAMES])


def suggest_renamings(
    missing: Iterable[str],
    columns: Iterable[str],
    other_names: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """What to rename, where a column that is there is likely to be meant.

    >>> suggest_renamings(["admit_time", "unit"], ["admittime", "value"])
    'rename admittime to admit_time'
    >>> suggest_renamings(["stay_id"], ["visit"], {"stay_id": ["visit"]})
    'rename visit to stay_id'
    """
    columns = list(columns)
    renamings = []
    for name in missing:
        matches = [other for other in (other_names or {}).get(name, ()) if other in columns]
        matches = matches or difflib.get_close_matches(name, columns, 1, SIMILAR)
        if matches:
            renamings.append(f"rename {matches[0]} to {name}")
            # One column can't be two.
            columns.remove(matches[0])
    return ", ".join(renamings)


def suggest_left_over(
    missing: Sequence[str],
    columns: Sequence[str],
    needed: Sequence[str],
    others: Collection[str] | None,
) -> str:
    """What to rename, where one column is missing and one is there that nobody asked for.

    >>> columns = ["sample_id", "task", "befund"]
    >>> suggest_left_over(["value"], columns, ["sample_id", "task", "value"], set())
    'if its column 3 is that one, rename it to value'
    """
    if others is None or len(missing) != 1:
        return ""
    unasked = [name for name in columns if name not in needed and name not in others]
    if len(unasked) != 1:
        return ""
    position = list_positions(columns, unasked)
    return f"if its column {position} is that one, rename it to {missing[0]}"


def join_names(names: Sequence[str], most: int = _MAX_NAMES) -> str:
    """Names, the first of many."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def format_count(n_columns: int) -> str:
    """
    >>> format_count(1), format_count(2000)
    ('1 column', '2,000 columns')
    """
    return "1 column" if n_columns == 1 else f"{n_columns:,} columns"
