"""What a dataset's codes mean: the mapping ``meds.yaml``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.sources.tasks_file import load_signals

STAY_COLUMNS = ("insurance", "language", "marital_status", "race")
# Section -> the names that it may have; None: any.
_SECTIONS: dict[str, set[str] | None] = {
    "stays": {"id", "admission", "discharge", "end", "icu"},
    "patients": {"birth", "death", "sex"},
    "columns": set(STAY_COLUMNS),
    "diagnoses": {"9", "10"},
    "procedures": {"9", "10"},
    "notes": None,
    "codes": None,
    "signals": None,
}
# Sections whose names are the arguments of one role; in the others a name is a role itself.
_ROLES = {
    "columns": "column",
    "diagnoses": "diagnosis",
    "procedures": "coded_procedure",
    "notes": "note",
    "codes": "code",
    "signals": "signal",
}


class Role(NamedTuple):
    """What a code stands for, such as ("signal", "glucose") or ("admission", "")."""

    name: str
    argument: str


@dataclass
class CodeMapping:
    """What a mapping file says.

    ``roles``: code, or its beginning -> role. ``stay_id``, ``stay_end``: columns of the data that
    name the stay and the time of its end, where there is one.
    """

    roles: dict[str, Role] = field(default_factory=dict)
    stay_id: str = "hadm_id"
    stay_end: str | None = None


def read_mapping(file: Path) -> CodeMapping:
    """Read and check a mapping file.

    >>> from m3h_pipeline.state.paths import contracts_folder
    >>> roles = read_mapping(contracts_folder() / "meds.yaml").roles
    >>> tuple(roles["HOSPITAL_ADMISSION"]), tuple(roles["LAB//220045"])
    (('admission', ''), ('signal', 'heart_rate'))
    >>> tuple(roles["DIAGNOSIS//ICD//9"])
    ('diagnosis', '9')
    """
    content = read_yaml(file, needs=f"the keys {', '.join(_SECTIONS)}")
    signals = {signal.code for signal in load_signals()}
    mapping = CodeMapping()
    for section, entries in content.items():
        if section not in _SECTIONS or not isinstance(entries, dict):
            raise InputError(f"{file}: {section} is not known; the keys are {', '.join(_SECTIONS)}")
        names = signals if section == "signals" else _SECTIONS[section]
        for name, codes in entries.items():
            if names is not None and name not in names:
                raise InputError(
                    f"{file}: {section}: {name} is not known; choose of {', '.join(sorted(names))}"
                )
            if (section, name) == ("stays", "id"):
                mapping.stay_id = str(codes or mapping.stay_id)
            elif (section, name) == ("stays", "end"):
                mapping.stay_end = str(codes) if codes else None
            else:
                _add_codes(mapping.roles, file, section, name, codes)
    return mapping


def _add_codes(roles: dict[str, Role], file: Path, section: str, name: str, codes: Any) -> None:
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise InputError(f"{file}: {section}: {name} must be a list of codes")
    role = Role(_ROLES[section], name) if section in _ROLES else Role(name, "")
    for code in codes:
        if code in roles:
            raise InputError(f"{file}: the code {code} has two roles")
        roles[code] = role


def role_of(
    code: str, parents: Iterable[str], roles: dict[str, Role]
) -> tuple[str, str, str] | None:
    """A code's role, its argument and what follows in the code; None where it has no role.

    >>> roles = {
    ...     "LAB//RESULT//50931": Role("signal", "glucose"),
    ...     "LOINC/8867-4": Role("signal", "heart_rate"),
    ... }
    >>> role_of("LAB//RESULT//50931//mg/dL", [], roles)
    ('signal', 'glucose', 'mg/dL')
    >>> role_of("LAB//RESULT//509310//mg/dL", [], roles)
    >>> role_of("PULSE", ["SNOMED/1", "LOINC/8867-4"], roles)
    ('signal', 'heart_rate', '')
    """
    parts = code.split("//")
    for length in range(len(parts), 0, -1):
        if role := roles.get("//".join(parts[:length])):
            return (*role, "//".join(parts[length:]))
    return next(((*roles[parent], "") for parent in parents if parent in roles), None)
