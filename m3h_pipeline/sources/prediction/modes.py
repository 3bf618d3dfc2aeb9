"""The ways to choose a prediction time, and why a stay has none."""

from __future__ import annotations

import datetime as dt

from m3h_pipeline.errors import InputError

MODES = ("admission", "icu", "image", "nightly", "given")
ENDED = "the stay ended before the prediction time"
NOT_YET = "the prediction time is still to come"
# Why a stay has no prediction time at all.
NONE = {
    "admission": "the stay has no admission time",
    "icu": "the stay has no ICU admission",
    "image": "the stay has no image",
    "nightly": "the patient was never in at the hour of prediction",
    "given": "no prediction time is given for the stay",
}


def need_mode(source: str, mode: str, supported: tuple[str, ...]) -> None:
    """Raise `InputError` where a source can't predict in this mode.

    >>> need_mode("meds", "image", ("admission", "icu"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    m3h_pipeline.errors.InputError: the source meds can't predict with prediction = "image"; it ...
    """
    if mode not in supported:
        raise InputError(
            f'the source {source} can\'t predict with prediction = "{mode}"; '
            f"it knows {', '.join(supported)}"
        )


def check_clock(text: str) -> None:
    """Raise `InputError` unless the text is an hour of the day.

    >>> check_clock("06:30")
    >>> check_clock("half past six")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    m3h_pipeline.errors.InputError: nightly_at 'half past six' is not an hour of the day; write ...
    """
    try:
        if dt.time.fromisoformat(text).tzinfo is None:
            return
    except ValueError:
        pass
    raise InputError(f"nightly_at {text!r} is not an hour of the day; write it as 00:00 or 06:30")
