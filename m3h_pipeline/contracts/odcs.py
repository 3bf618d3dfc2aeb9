"""Read a contract from its file in the Open Data Contract Standard; a mistake is named with its
place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from m3h_pipeline.contracts.expectations import (
    COMPOUND_UNIQUE,
    NO_MATCH,
    NOT_NULL,
    ON_ROWS,
    ON_TABLES,
    UNIQUE,
)
from m3h_pipeline.contracts.model import LOOKUP_COLUMNS, Bound, Contract, Rule
from m3h_pipeline.contracts.row_rules import to_row_rule
from m3h_pipeline.errors import InputError
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.state.paths import contracts_folder

_TYPES: dict[str, pl.DataType] = {
    "VARCHAR": pl.String(),
    "TIMESTAMP": pl.Datetime("us"),
    "DOUBLE": pl.Float64(),
    "TINYINT": pl.Int8(),
    "FLOAT[]": pl.List(pl.Float32()),
}
# Bounds of a table as a whole that Great Expectations does not know: type -> arguments, and those
# it may have.
_BOUNDS: dict[str, tuple[set[str], set[str]]] = {
    "quarantined_share": ({"max_value"}, set()),
    "volume_change": ({"min_ratio", "max_ratio"}, set()),
    "distribution_shift": ({"max_distance", "min_count"}, {"by", "of", "value"}),
}


def load_contract(table: str, folder: Path | None = None) -> Contract:
    """Read and check ``<table>.odcs.yaml``; an `InputError` names the file, the place and what is
    wrong there.
    """
    file = (folder or contracts_folder()) / f"{table}.odcs.yaml"
    content = file.read_bytes() if is_regular_file(file) else b""
    return _load_contract(table, file, content)


@lru_cache(maxsize=32)
def _load_contract(table: str, file: Path, content: bytes) -> Contract:
    """The contract of a file with this content; kept, for a run asks for each some fifty times."""
    document = read_yaml(file)
    _check_standard(file, document)
    tables = document.get("schema") or []
    if len(tables) != 1 or tables[0].get("name") != table:
        raise InputError(f"{file}: its schema must hold one table, named {table}")
    try:
        contract = _read_table(table, tables[0], document.get("slaProperties", ()))
        _check_contract(contract)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{file}: {reason}") from None
    return contract


def _check_standard(file: Path, document: object) -> None:
    """Hold the file against the standard's own JSON schema, which refuses unknown keys (tools drop
    them silently).
    """
    from jsonschema import Draft201909Validator

    schema_file = resources.files("open_data_contract_standard") / "schema.json"
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    # The deepest error says most: those around it only say that something inside is wrong.
    errors = sorted(
        Draft201909Validator(schema).iter_errors(document),
        key=lambda error: -len(error.absolute_path),
    )
    if errors:
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in errors[0].absolute_path
        )
        raise InputError(f"{file}: {place.lstrip('.') or 'the file'}: {errors[0].message[:300]}")


def _read_table(table: str, schema: dict[str, Any], sla: Sequence[dict[str, Any]]) -> Contract:
    """The contract of the standard's schema object of one table."""
    properties = schema["properties"]
    columns: dict[str, pl.DataType] = {}
    relationships: dict[str, tuple[str, str]] = {}
    rules: list[Rule] = []
    for column in properties:
        columns[column["name"]] = _read_type(column)
        rules += [*_require_value(column), *_forbid_pattern(column)]
        for relationship in column.get("relationships", ()):
            relationships[column["name"]] = _read_relationship(column["name"], relationship)
            rules.append(_require_match(relationship))
        rules += _read_quality_rules(column)
    unique_columns = [column["name"] for column in properties if column.get("unique")]
    custom = _read_custom(schema)
    return Contract(
        table=table,
        columns=columns,
        about={column["name"]: column.get("description", "") for column in properties},
        optional=frozenset(
            column["name"] for column in properties if _read_custom(column).get("mayBeAbsent")
        ),
        open=bool(custom.get("additionalColumns")),
        relationships=relationships,
        computed=custom.get("computedColumns", {}),
        rules=(
            *rules,
            *_read_quality_rules(schema),
            *[_forbid_duplicates(name) for name in unique_columns],
            *_forbid_duplicate_keys(properties),
        ),
        bounds=_read_bounds(schema["quality"], columns),
        freshness=_read_freshness(table, sla, columns),
        verified_rows=custom["verifiedRows"],
    )


def _read_custom(element: Mapping[str, Any]) -> dict[str, Any]:
    """The custom properties of a part of the contract."""
    return {entry["property"]: entry["value"] for entry in element.get("customProperties", ())}


def _read_type(column: Mapping[str, Any]) -> pl.DataType:
    if column["physicalType"] not in _TYPES:
        raise ValueError(f"{column['name']}: physicalType must be one of {', '.join(_TYPES)}")
    if column.get("logicalTypeOptions"):
        raise ValueError(
            f"{column['name']}: logicalTypeOptions are not translated: write a quality rule instead"
        )
    return _TYPES[column["physicalType"]]


def _read_relationship(name: str, relationship: Mapping[str, Any]) -> tuple[str, str]:
    """The lookup table that a column refers to, and its column."""
    to, _, to_column = relationship["to"].partition(".")
    if to_column not in LOOKUP_COLUMNS.get(to, ()):
        raise ValueError(f"{name}: there is no {relationship['to']} to refer to")
    return to, to_column


# Rules that follow from what the standard says of a column ----------------------------------------


def _require_value(column: Mapping[str, Any]) -> list[Rule]:
    if not column.get("required"):
        return []
    name = column["name"]
    return [_build_rule(f"missing_{name}", f"{name} must be there.", NOT_NULL, column=name)]


def _forbid_pattern(column: Mapping[str, Any]) -> list[Rule]:
    pattern = _read_custom(column).get("forbiddenPattern")
    if pattern is None:
        return []
    name = column["name"]
    text = f"{name} must have 1 to 128 characters, none of them broken and no control characters."
    return [_build_rule(f"malformed_{name}", text, NO_MATCH, column=name, regex=pattern)]


def _require_match(relationship: Mapping[str, Any]) -> Rule:
    """The rule that what a column refers to must be there; the contract names it."""
    to, _, to_column = relationship["to"].partition(".")
    named = next(entry for entry in relationship["customProperties"] if entry["property"] == "rule")
    return _build_rule(named["value"], named["description"], NOT_NULL, column=f"{to}_{to_column}")


def _forbid_duplicates(name: str) -> Rule:
    text = f"No earlier row may have the same {name}; the first is kept."
    return _build_rule(f"duplicate_{name}", text, UNIQUE, column=name)


def _forbid_duplicate_keys(properties: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """The rule on the primary key, of one column or several."""
    positions = sorted(
        (column["primaryKeyPosition"], column["name"])
        for column in properties
        if column.get("primaryKey")
    )
    key = [name for _, name in positions]
    if not key:
        return []
    text = f"No earlier row may have the same {', '.join(key)}; the first is kept."
    if len(key) == 1:
        return [_build_rule("duplicate_key", text, UNIQUE, column=key[0])]
    return [_build_rule("duplicate_key", text, COMPOUND_UNIQUE, column_list=key)]


def _build_rule(name: str, description: str, type_: str, **kwargs: Any) -> Rule:
    return Rule(name, description, "error", type_, kwargs)


# Rules, bounds and freshness that the contract writes out -----------------------------------------


def _read_quality_rules(element: Mapping[str, Any]) -> list[Rule]:
    rules = []
    for quality in element.get("quality", ()):
        if quality.get("engine") == "m3h":
            continue
        if quality.get("type") != "custom" or quality.get("engine") != "greatExpectations":
            raise ValueError(
                f"{quality.get('name')}: a rule needs type custom and engine greatExpectations (so "
                "spelt)"
            )
        implementation = quality["implementation"]
        rule = Rule(
            quality["name"],
            quality["description"],
            _read_severity(quality),
            implementation["type"],
            implementation["kwargs"],
        )
        rules.append(rule)
    return rules


def _read_severity(rule: Mapping[str, Any]) -> str:
    if rule["severity"] not in ("error", "warning"):
        raise ValueError(f"{rule['name']}: severity must be error or warning")
    return rule["severity"]


def _read_bounds(
    rules: Sequence[dict[str, Any]], columns: Mapping[str, pl.DataType]
) -> dict[str, Bound]:
    bounds = {}
    for rule in rules:
        if rule.get("engine") == "m3h":
            implementation = rule["implementation"]
            _check_bound(rule["name"], implementation, columns)
            bounds[implementation["type"]] = Bound(_read_severity(rule), implementation["kwargs"])
    if "quarantined_share" not in bounds:
        raise ValueError(
            "there must be a quality rule with engine m3h and implementation.type quarantined_share"
        )
    return bounds


def _check_bound(
    name: str, implementation: Mapping[str, Any], columns: Mapping[str, pl.DataType]
) -> None:
    type_ = implementation["type"]
    if type_ not in _BOUNDS:
        raise ValueError(f"{name}: engine m3h knows the types {', '.join(_BOUNDS)}, not {type_}")
    kwargs = implementation["kwargs"]
    required, optional = _BOUNDS[type_]
    missing = required - kwargs.keys()
    unexpected = kwargs.keys() - required - optional
    if missing or unexpected:
        raise ValueError(
            f"{name}: {min(missing | unexpected)}: {type_} takes "
            f"{', '.join(sorted(required | optional))}"
        )
    unknown = {kwargs[key] for key in optional & kwargs.keys()} - columns.keys()
    if unknown:
        raise ValueError(f"{name}: there is no column {min(unknown)}")


def _read_freshness(
    table: str, sla: Sequence[dict[str, Any]], columns: Mapping[str, pl.DataType]
) -> tuple[str, int] | None:
    """The standard's own property for freshness: the column whose newest value counts, and the days
    it may be old.
    """
    entry = next((entry for entry in sla if entry["property"] == "latency"), None)
    if entry is None:
        return None
    of, _, column = entry["element"].partition(".")
    if of != table or column not in columns or not columns[column].is_temporal():
        raise ValueError(f"slaProperties: {entry['element']} is no time column of {table}")
    if entry.get("unit") not in ("d", "day", "days") or not isinstance(entry["value"], int):
        raise ValueError("slaProperties: write a latency as a whole number with unit d")
    return column, entry["value"]


# The contract as a whole --------------------------------------------------------------------------


def _check_contract(contract: Contract) -> None:
    """Translate all rules once, so that a mistake shows when the contract is read."""
    visible = set(contract.columns)
    for to, _ in contract.relationships.values():
        visible |= {f"{to}_{column}" for column in LOOKUP_COLUMNS[to]}
    for name, sql in contract.computed.items():
        _check_sql(name, sql, visible)
    names: set[str] = set()
    for rule in contract.rules:
        _check_rule(rule, contract, visible | contract.computed.keys())
        if rule.name in names:
            raise ValueError(f"{rule.name}: there are two rules of this name")
        names.add(rule.name)


def _check_sql(name: str, sql: str, columns: set[str]) -> None:
    try:
        unknown = set(pl.sql_expr(sql).meta.root_names()) - columns
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{name}: {sql}: {error}") from None
    if unknown:
        raise ValueError(f"{name}: there is no column {min(unknown)}")


def _check_rule(rule: Rule, contract: Contract, columns: set[str]) -> None:
    if rule.type not in ON_ROWS and rule.type not in ON_TABLES:
        raise ValueError(
            f"{rule.name}: {rule.type} is not translated; add it to "
            "m3h_pipeline/contracts/expectations.py"
        )
    unknown = set(rule.columns) - columns
    if unknown:
        raise ValueError(f"{rule.name}: there is no column {min(unknown)}")
    if rule.on_rows:
        to_row_rule(rule)
    is_key = rule.type in (UNIQUE, COMPOUND_UNIQUE)
    if is_key and contract.optional.intersection(rule.columns):
        raise ValueError(f"{rule.name}: a key can't have columns that may be absent")
