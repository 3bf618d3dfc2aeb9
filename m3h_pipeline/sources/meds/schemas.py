"""Files held against the schemas of the standard; their rows are judged later, by the contracts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.regular import is_regular_file

# Parts of the names of files that are no patient's: a split, a number of few digits.
_SHARD = re.compile(
    r"(?:train|tuning|held_out|test|data|part|shard|chunk|file|batch)?[-_.]?\d{0,5}"
)


def name_shards(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """Name -> file, as metadata and messages tell it: its path in the folder where that can't name
    a patient.

    Else the name is its place in the list of all files by name.

    >>> root = Path("data")
    >>> files = [root / name for name in ("train/0.parquet", "train/erika.parquet", "7.parquet")]
    >>> list(name_shards(root, files))
    ['train/0.parquet', 'file 2 of 3 by name', '7.parquet']
    """
    names = {}
    for number, file in enumerate(files, start=1):
        path = file.relative_to(folder)
        is_harmless = all(_SHARD.fullmatch(part) for part in path.with_suffix("").parts)
        names[path.as_posix() if is_harmless else f"file {number} of {len(files)} by name"] = file
    return names


def check_schema(file: Path, schema: Any, shown: Path) -> None:
    """Hold a file's columns and types against a schema of the standard.

    ``shown``: how messages call the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from flexible_schema.exceptions import SchemaValidationError

    if not is_regular_file(file):
        raise InputError(f"{shown} is not there")
    try:
        fields = list(pq.read_schema(file))
    except (OSError, pa.ArrowException):
        raise InputError(f"{shown} can't be read (it is damaged): copy it again") from None
    standard = {field.name: field.type for field in schema.schema()}
    # An int32 id or a large string is as good.
    alike = [
        field.with_type(standard[field.name])
        if field.name in standard and _is_of_one_family(field.type, standard[field.name])
        else field
        for field in fields
    ]
    try:
        schema.validate(pa.schema(alike))
    except SchemaValidationError as error:
        raise InputError(
            f"{shown} is not as MEDS' {schema.__name__} says: {_describe(error)}"
        ) from None


def _is_of_one_family(kind: Any, other: Any) -> bool:
    """Whether both types are integers, texts, or whatever else a column may be."""
    import pyarrow.types as types

    families = (
        types.is_integer,
        types.is_floating,
        _is_text,
        _is_list,
        types.is_timestamp,
        types.is_boolean,
    )
    return any(is_one(kind) and is_one(other) for is_one in families)


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<"))


def _describe(error: Any) -> str:
    """What is wrong with a schema; columns that the standard doesn't know are counted: they may
    name a patient.
    """
    reasons = []
    if error.missing_req_cols:
        reasons.append(f"Missing required columns: {', '.join(error.missing_req_cols)}")
    if error.mistyped_cols:
        types = [f"{name} (want {want}, got {got})" for name, want, got in error.mistyped_cols]
        reasons.append(f"Columns with incorrect types: {', '.join(types)}")
    if error.disallowed_extra_cols:
        reasons.append(f"Columns that it does not have: {len(error.disallowed_extra_cols):,}")
    return ". ".join(reasons) or "it has another layout"
