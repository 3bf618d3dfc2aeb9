"""Declared columns of the samples table and what each is for: a feature of the model, an attribute
to audit, or both.

Nothing undeclared enters a model, and what is only known after the stay can't be declared a
feature.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from m3h_pipeline.errors import InputError

FILE = "columns.json"

# Known only at the end of the stay or later, so each gives labels away.
_OUTCOMES = re.compile(
    r"(death|died|dead|deceased|dod\b|expire|hospital_expire|mortality|survival"
    r"|disch|length_of_stay|los\b|outtime|drg|icd|readmi)"
)
# Part of the samples table, but keys and times are no features.
_STRUCTURE = {"sample_id", "stay_id", "subject_id", "admit_time", "prediction_time", "split"}


@dataclass(frozen=True)
class Columns:
    """Names of the declared columns by role; a name may have both.

    >>> Columns(features=("age", "sex"), audit=("sex", "race")).declared
    ('age', 'sex', 'race')
    >>> Columns(features=("age", "discharge_location"))
    Traceback (most recent call last):
        ...
    m3h_pipeline.errors.InputError: discharge_location can't be a feature: it is only known when \
the stay is over
    """

    features: tuple[str, ...]
    audit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "audit", tuple(self.audit))
        for name in self.features:
            if _OUTCOMES.match(name.lower()):
                raise InputError(
                    f"{name} can't be a feature: it is only known when the stay is over"
                )
            if name.lower() in _STRUCTURE:
                raise InputError(
                    f"{name} can't be a feature: it is a key or a time of the samples table"
                )

    @property
    def declared(self) -> tuple[str, ...]:
        """All names, each once."""
        return tuple(dict.fromkeys(self.features + self.audit))

    def save(self, folder: Path) -> None:
        """Write ``columns.json``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Columns:
        """Read ``columns.json``."""
        try:
            roles = json.loads((folder / FILE).read_text())
            return cls(**roles)
        except FileNotFoundError:
            raise InputError(f"{folder / FILE} is not there: ingest the source again") from None
        except (json.JSONDecodeError, TypeError):
            raise InputError(f'{folder / FILE} needs two lists, "features" and "audit"') from None
