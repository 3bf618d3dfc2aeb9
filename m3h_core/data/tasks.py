"""The output space: what a model is asked to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Problem = Literal["binary", "multiclass", "regression", "clustering"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)


@dataclass(frozen=True)
class TaskSpec:
    """One task: its kind of problem and what it means.

    ``classes`` is the list of names, or their count, of a multiclass task; the fixed number of
    clusters of a clustering task (left out, it is chosen on the validation split); ``None``
    otherwise.

    >>> TaskSpec("death", "binary", department="hospital").n_outputs
    1
    >>> TaskSpec("destination", "multiclass", classes=["home", "facility", "died"]).n_outputs
    3
    >>> TaskSpec("death", "ranking")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: task 'death': problem 'ranking' is not one of binary, ...
    """

    name: str
    problem: Problem
    classes: Sequence[str] | int | None = None
    department: str = ""
    unit: str = ""
    definition: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a task needs a name")
        if self.problem not in PROBLEMS:
            raise ValueError(
                f"task {self.name!r}: problem {self.problem!r} is not one of {', '.join(PROBLEMS)}"
            )
        if self.classes is not None and not isinstance(self.classes, int):
            object.__setattr__(self, "classes", tuple(self.classes))
        if self.problem == "multiclass" and (self.n_classes or 0) < 2:
            raise ValueError(f"task {self.name!r}: a multiclass task needs at least two classes")
        if self.problem == "clustering" and self.n_classes is not None and self.n_classes < 2:
            raise ValueError(
                f"task {self.name!r}: clustering needs at least two clusters, or none given"
            )
        if self.problem in ("binary", "regression") and self.classes is not None:
            raise ValueError(f"task {self.name!r}: a {self.problem} task takes no classes")

    @property
    def n_classes(self) -> int | None:
        """Number of classes or clusters; ``None`` where the problem has none or it is to be
        chosen.
        """
        if self.classes is None or isinstance(self.classes, int):
            return self.classes
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; numbers where only a count was given."""
        if self.classes is None:
            return ()
        if isinstance(self.classes, int):
            return tuple(str(i) for i in range(self.classes))
        return tuple(self.classes)

    @property
    def n_outputs(self) -> int:
        """Width of the task's prediction; a clustering task whose size is not yet chosen counts as
        1.
        """
        return (self.n_classes or 1) if self.problem in ("multiclass", "clustering") else 1

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, read back by :meth:`from_dict`."""
        record = asdict(self)
        if isinstance(self.classes, tuple):
            record["classes"] = list(self.classes)
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TaskSpec:
        """Read what :meth:`to_dict` wrote.

        >>> task = TaskSpec("destination", "multiclass", classes=["home", "died"])
        >>> TaskSpec.from_dict(task.to_dict()) == task
        True
        """
        return cls(**record)
