"""The one error that a user is meant to read: it becomes a paragraph without a traceback, and exit code 1."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something about the input, the configuration or the output folder is wrong, and the user can mend it.

    The message says what was wrong, where (file, table, column, row count) and what to do about it.
    It never holds a patient's values.
    """


# A name that stands in a patient's data is told only where it is so similar to one that is known.
SIMILAR = 0.75


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A half sentence that names the most similar of the known names; empty where none is similar.

    Names that come from the data, and not from a person's settings, need the ``cutoff`` SIMILAR.

    >>> did_you_mean("discharge_tme", ["admit_time", "discharge_time"])
    '; did you mean discharge_time?'
    >>> did_you_mean("age", ["admit_time"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f"; did you mean {close[0]}?" if close else ""
