"""What the terminal shows of a run: a line a step, and the jobs' own progress between them; or
every log line.
"""

from __future__ import annotations

import logging
import sys
import time

import dagster as dg


class _StepLines(logging.Handler):
    """Turns Dagster's log records into few short lines on standard error."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose
        self._started = time.monotonic()
        self._steps: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "dagster_event", None)
        if self._verbose:
            self._line(f"{record.levelname:<8} {record.getMessage()}")
        elif event is None:
            message = getattr(record, "dagster_meta", {}).get("orig_message", record.getMessage())
            if record.levelno >= logging.WARNING:
                # Once a step has failed Dagster says this of each that comes after it, and the
                # reason stands last.
                if not message.startswith("Dependencies for step "):
                    self._line(message)
            elif (
                record.levelno >= logging.INFO
                and sys.stderr.isatty()
                and not message.startswith("[")
            ):
                self._line(f"  {message}")
        elif event.is_step_start:
            self._steps[event.step_key] = time.monotonic()
        elif event.is_step_success:
            took = time.monotonic() - self._steps.get(event.step_key, time.monotonic())
            self._line(f"{event.step_key:<24} {took:6.1f} s")
        elif event.is_step_failure:
            self._line(f"{event.step_key:<24} failed")

    def _line(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        print(f"{minutes:2d}:{seconds:02d}  {text}", file=sys.stderr, flush=True)


@dg.logger(
    {"verbose": dg.Field(bool, default_value=False)},
    description="A line a step, or all that is logged.",
)
def progress_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger that every job of this project uses."""
    logger = logging.Logger("m3h", logging.DEBUG)  # Dagster logs its steps at this level
    logger.addHandler(_StepLines(context.logger_config["verbose"]))
    return logger
