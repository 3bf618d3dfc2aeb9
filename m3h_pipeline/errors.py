"""The one error that a user is meant to read: it becomes a paragraph without a traceback, and exit code 1."""

from __future__ import annotations


class InputError(Exception):
    """Something about the input, the configuration or the output folder is wrong, and the user can mend it.

    The message says what was wrong, where (file, table, column, row count) and what to do about it.
    It never holds a patient's values.
    """
