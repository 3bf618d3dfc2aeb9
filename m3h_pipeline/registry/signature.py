"""What a registered model takes: its inputs by name and type, and a made-up example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

# The column of a served row that holds a modality's records.
_RECORD_COLUMNS = {"timeseries": "events", "language": "notes", "vision": "images"}


def build_signature(
    features: Mapping[str, str], given: Sequence[str], has_codes: bool = False
) -> ModelSignature:
    """Named, typed inputs, all optional: a sample may lack any modality.

    ``features``: the tabular columns and their MLflow type ("double" or "string"); ``given``: the
    modalities that are vectors, not raw; ``has_codes``: whether codes belong to the tabular one.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType, Object, Property

    number = DataType.double
    text = DataType.string
    content = DataType.binary
    records = {
        "codes": [
            Property("code", text),
            Property("hours", number),
            Property("value", number, required=False),
        ],
        "events": [Property("code", text), Property("hours", number), Property("value", number)],
        "notes": [Property("hours", number), Property("text", text)],
        "images": [
            Property("hours", number),
            Property("view", text, required=False),
            Property("content", content),
        ],
    }
    columns: list[Any] = []
    if "tabular" not in given:
        columns += [ColSpec(kind, name, required=False) for name, kind in features.items()]
        if has_codes:
            columns.append(ColSpec(Array(Object(records["codes"])), "codes", required=False))
    for modality, name in _RECORD_COLUMNS.items():
        if modality not in given:
            columns.append(ColSpec(Array(Object(records[name])), name, required=False))
    for modality in given:
        columns.append(ColSpec(Array(number), f"{modality}_vector", required=False))
    return ModelSignature(inputs=Schema(columns))


def build_example(
    features: Mapping[str, str], given: Sequence[str], has_codes: bool = False
) -> pd.DataFrame:
    """One made-up sample in the form of the signature; given vectors are left out, their length is
    the hospital's.
    """
    import pandas as pd

    row: dict[str, Any] = {}
    if "tabular" not in given:
        row = {name: 50.0 if kind == "double" else "unknown" for name, kind in features.items()}
        if has_codes:
            row["codes"] = [{"code": "service/medicine", "hours": -20.0, "value": float("nan")}]
    if "timeseries" not in given:
        row["events"] = [{"code": "heart_rate", "hours": -2.0, "value": 80.0}]
    if "language" not in given:
        row["notes"] = [{"hours": -3.0, "text": "An example, not a patient."}]
    return pd.DataFrame([row or {"example": 1.0}])
