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
_MOST = 40


def looks_like_a_row(columns: Sequence[str], needed: Collection[str]) -> bool:
    """Whether a first line is rather a row than a header.

    >>> looks_like_a_row(["9999001", "mustermann", "2024-03-01 08:00"], ["stay_id", "time"])
    True
    >>> looks_like_a_row(["visit", "time"], ["stay_id", "time"]), looks_like_a_row(["a", "b"], ["stay_id"])
    (False, False)
    """
    known = sum(name in needed for name in columns)
    return 2 * known < len(needed) and any(_VALUE.fullmatch(name) for name in columns)


def what_is_there(columns: Sequence[str], vocabulary: Collection[str]) -> str:
    """The known names of a header, and how many others it has.

    >>> what_is_there(["time", "mustermann", "code"], {"time", "code"}), what_is_there(["a", "b"], {"time"})
    ('it has time, code and 1 of another name', 'it has 2 columns, none with a name that is known here')
    """
    known = [name for name in columns if name in vocabulary]
    others = len(columns) - len(known)
    if not known:
        return f"it has {count_of(others)}, none with a name that is known here"
    return f"it has {listed(known)}" + (f" and {others:,} of another name" if others else "")


def known_names(columns: Iterable[str], vocabulary: Collection[str]) -> list[str]:
    """The names that are known, or very similar to one.

    >>> known_names(["charttime", "mustermann", "result_dt"], ["charttime", "result_time"])
    ['charttime', 'result_dt']
    """
    return [
        name
        for name in columns
        if name in vocabulary or difflib.get_close_matches(name, vocabulary, 1, SIMILAR)
    ]


def places(columns: Sequence[str], wanted: Collection[str]) -> str:
    """Where names stand, from 1.

    >>> places(["a", "b", "a"], {"a"})
    '1 and 3'
    """
    numbers = [str(i) for i, name in enumerate(columns, start=1) if name in wanted]
    return " and ".join(numbers[:_MOST])


def renamings(
    missing: Iterable[str],
    columns: Iterable[str],
    other_names: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """What to rename, where a column that is there is likely to be meant.

    >>> renamings(["admit_time", "unit"], ["admittime", "value"])
    'rename admittime to admit_time'
    >>> renamings(["stay_id"], ["visit"], {"stay_id": ["visit"]})
    'rename visit to stay_id'
    """
    columns = list(columns)
    found = []
    for name in missing:
        meant = [other for other in (other_names or {}).get(name, ()) if other in columns]
        meant = meant or difflib.get_close_matches(name, columns, 1, SIMILAR)
        if meant:
            found.append(f"rename {meant[0]} to {name}")
            # One column can't be two.
            columns.remove(meant[0])
    return ", ".join(found)


def left_over(
    missing: Sequence[str],
    columns: Sequence[str],
    needed: Sequence[str],
    others: Collection[str] | None,
) -> str:
    """What to rename, where one column is missing and one is there that nobody asked for.

    >>> left_over(["value"], ["sample_id", "task", "befund"], ["sample_id", "task", "value"], set())
    'if its column 3 is that one, rename it to value'
    """
    if others is None or len(missing) != 1:
        return ""
    unasked = [name for name in columns if name not in needed and name not in others]
    if len(unasked) != 1:
        return ""
    return f"if its column {places(columns, unasked)} is that one, rename it to {missing[0]}"


def listed(names: Sequence[str], most: int = _MOST) -> str:
    """Names, the first of many."""
    return ", ".join(names[:most]) + (
        f" and {len(names) - most:,} more" if len(names) > most else ""
    )


def count_of(columns: int) -> str:
    """
    >>> count_of(1), count_of(2000)
    ('1 column', '2,000 columns')
    """
    return "1 column" if columns == 1 else f"{columns:,} columns"
