"""The one error that a user is meant to read: it becomes a paragraph without a traceback, and exit
code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something about the input, the configuration or the output folder is wrong, and the user can
    mend it.

    The message says what was wrong, where (file, table, column, row count) and what to do about it.
    It never holds a patient's values.
    """


# Libraries whose messages quote the value that they could not convert.
_QUOTING = ("duckdb", "polars", "pyarrow", "pandas")
# The same of Python and NumPy.
_QUOTES = ("could not convert string", "invalid literal for")


class ValueLeftOut(Exception):
    """Stands for a library's error whose message may quote a patient's value; where it happened,
    the traceback says.
    """


def remove_values(error: BaseException) -> BaseException:
    """The error itself, or what stands for it where its message, or that of its cause, may quote a
    patient's value.

    >>> remove_values(KeyError("a"))
    KeyError('a')
    >>> remove_values(ValueError("could not convert string to float: 'Smith'"))
    ValueLeftOut('ValueError: its message is left out, since it may quote a value')
    """
    if not any(_may_quote(link) for link in _list_causes(error)):
        return error
    text = f"{type(error).__name__}: its message is left out, since it may quote a value"
    left_out = ValueLeftOut(text).with_traceback(error.__traceback__)
    left_out.__suppress_context__ = True
    return left_out


def _list_causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from, as a traceback shows them."""
    chain = [error]
    while True:
        last = chain[-1]
        cause = last.__cause__
        if cause is None and not last.__suppress_context__:
            cause = last.__context__
        if cause is None:
            return chain
        chain.append(cause)


def _may_quote(error: BaseException) -> bool:
    library = type(error).__module__.lstrip("_").split(".")[0]
    return library in _QUOTING or any(words in str(error) for words in _QUOTES)


# A name that stands in a patient's data is told only where it is so similar to one that is known.
SIMILAR = 0.75


def suggest_similar(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """A half sentence that names the most similar of the known names; empty where none is similar.

    Names that come from the data, and not from a person's settings, need the ``cutoff`` SIMILAR.

    >>> suggest_similar("discharge_tme", ["admit_time", "discharge_time"])
    '; did you mean discharge_time?'
    >>> suggest_similar("age", ["admit_time"])
    ''
    """
    close = difflib.get_close_matches(name, list(names), 1, cutoff)
    return f"; did you mean {close[0]}?" if close else ""
