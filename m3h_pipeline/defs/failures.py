"""How an error ends a step in Dagster."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg

from m3h_pipeline.errors import InputError, remove_values
from m3h_pipeline.errors.endings import collect_messages, explain


@contextmanager
def raise_as_failure() -> Generator[None]:
    """Turn a user's mistake, or a full disk, into a Dagster failure that is not retried and has no
    traceback.

    A library's error loses the values that it quotes.
    """
    try:
        yield
    except InputError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except Exception as error:
        explanation = explain(collect_messages(error))
        if explanation is not None:
            raise dg.Failure(description=explanation, allow_retries=False) from error
        redacted = remove_values(error)
        if redacted is error:
            raise
        raise redacted from None
