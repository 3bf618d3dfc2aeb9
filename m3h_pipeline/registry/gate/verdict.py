"""What the gate says: a result a check, a comparison a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from m3h_pipeline.wording import format_interval, format_number, join_words

State = Literal["shown", "open", "refuted"]
Severity = Literal["error", "warn"]

# What a candidate is held against of its own night, and what follows where it is clearly below.
ARMS: Mapping[str, Severity] = {"single_task": "error", "trees": "error"}


@dataclass(frozen=True)
class CheckResult:
    """One check: whether it passed, and why, in words without any patient's value.

    ``severity``: what follows where it did not pass: "error" rejects the candidate, "warn" is only
    told. ``advice``: what to look at, or to set, where it did not pass. ``counts``: the numbers
    behind ``reason``.
    """

    name: str
    passed: bool
    reason: str
    severity: Severity = "error"
    advice: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def rejects(self) -> bool:
        """Whether the candidate is rejected for it."""
        return not self.passed and self.severity == "error"


@dataclass(frozen=True)
class Comparison:
    """One task: ``value`` minus ``other`` with bounds.

    ``low`` decides whether the task is *shown*, and holds for all tasks at once. ``high`` decides
    whether it is *refuted*; against trivial it is the end of the task's own 95% interval, as the
    report shows it.
    """

    task: str
    metric: str
    value: float
    other: float
    low: float
    high: float
    state: State

    @property
    def difference(self) -> float:
        """The estimate."""
        return self.value - self.other

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with six digits."""
        record = asdict(self)
        numbers = {key: round(item, 6) for key, item in record.items() if isinstance(item, float)}
        return record | numbers


@dataclass(frozen=True)
class ReferenceModel:
    """What the candidate is compared with: a version, and its predictions {task: [N] or [N, C]}.

    ``problem`` says why it has none, where it could not be applied to these samples; ``has_folds``
    whether each prediction is that of a model that did not see the patient, and not those of the
    test split alone.
    """

    version: str
    predictions: Mapping[str, np.ndarray]
    problem: str = ""
    has_folds: bool = False


def format_difference(comparison: Comparison) -> str:
    """A task with its difference."""
    return f"{comparison.task} ({format_number(comparison.difference, sign=True)})"


def format_with_interval(comparison: Comparison, ends: tuple[float, float]) -> str:
    """A task with its score and its own 95% interval."""
    value = format_number(comparison.value)
    return f"{comparison.task} ({comparison.metric} {value}, 95% interval {format_interval(*ends)})"


def format_first(items: Sequence[str], most: int = 6) -> str:
    """The first of a list of words, and how many more there are."""
    rest = [f"{len(items) - most} more"] if len(items) > most else []
    return join_words([*items[:most], *rest])
