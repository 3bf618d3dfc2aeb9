"""Data contracts: which rows of a canonical table are good, and what the table as a whole must
keep.

A contract is a file ``data_contracts/<table>.odcs.yaml`` in the Open Data Contract Standard, the
one source of all rules. One translator makes two things of it: Polars expressions that are true
where a row is wrong (they split good rows from quarantine, on any number of rows) and a Great
Expectations suite (it verifies anew what was kept). Rules may also name columns that are not in the
table: ``samples_admit_time`` and the like come through the contract's relationships, and its
``computedColumns`` are SQL over both.

    python -m m3h_pipeline.contracts        writes data_contracts/suites/*.json anew
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from m3h_core.tasks import TaskSpec
from m3h_pipeline.contracts.check_states import with_state
from m3h_pipeline.contracts.quarantine_csv import columns_of_rules, write_quarantine_csv
from m3h_pipeline.errors import InputError
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.sources.tasks_file import load_signals
from m3h_pipeline.state.paths import contracts_folder
from m3h_pipeline.state.permissions import create_private_file
from m3h_pipeline.wording import MIN_GROUP_SIZE, format_count

if TYPE_CHECKING:
    from m3h_pipeline.contracts.changes import Occasion

TABLES = ("samples", "events", "notes", "images", "labels", "embeddings")
# What ingestion adds to each row so that a wrong one can be found again; not part of the contract.
PROVENANCE = {"source_file": pl.String(), "source_row": pl.Int64(), "parse_errors": pl.String()}
# Rules of the pipeline itself, before those of any contract.
SAMPLE_QUARANTINED = "sample_quarantined"
UNREADABLE = "unreadable_field"

_TYPES: dict[str, pl.DataType] = {
    "VARCHAR": pl.String(),
    "TIMESTAMP": pl.Datetime("us"),
    "DOUBLE": pl.Float64(),
    "TINYINT": pl.Int8(),
    "FLOAT[]": pl.List(pl.Float32()),
}
# What a relationship may refer to, and the columns that rules then see as <table>_<column>.
_LOOKUPS = {
    "samples": ("stay_id", "sample_id", "admit_time", "discharge_time"),
    "signals": ("code", "unit", "low", "high"),
    "tasks": ("name", "problem", "last_class"),
    "files": ("path", "bytes"),
}

_CHECKS = {
    "schema": (
        "The columns are those of the contract, and no declared one of the last snapshot is gone "
        "or retyped."
    ),
    "contract": (
        "Every rule of the contract holds for the rows that were kept; verified by Great "
        "Expectations."
    ),
    "quarantine": "The share of rows in quarantine stays within the contract's bound.",
    "volume": "There are as many rows as the contract asks for.",
    "warnings": "What should hold, but does not stop the pipeline.",
    "change_in_volume": "There are about as many rows as in the last snapshot.",
    "distribution": (
        "Signals, tasks, kinds and declared columns are distributed as in the last snapshot; none "
        "is gone."
    ),
    "freshness": "The newest record is not much older than the snapshot; of live sources only.",
}


@dataclass(frozen=True)
class Rule:
    """One rule of a contract: a Great Expectations type with its arguments."""

    name: str
    description: str
    severity: str
    type: str
    kwargs: Mapping[str, Any]

    @property
    def on_rows(self) -> bool:
        """True where single rows keep or break the rule; false where only the table as a whole
        does.
        """
        return self.type in _WRONG and "mostly" not in self.kwargs

    @property
    def columns(self) -> list[str]:
        """The columns that the rule looks at."""
        names = [
            self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs
        ]
        return names + list(self.kwargs.get("column_list", ()))

    @property
    def expectation(self) -> dict[str, Any]:
        """The same rule as Great Expectations reads it."""
        severity = {"error": "critical", "warning": "warning"}[self.severity]
        return {
            "type": self.type,
            "kwargs": dict(self.kwargs),
            "severity": severity,
            "description": self.description,
            "meta": {"name": self.name},
        }


@dataclass(frozen=True)
class RowRule:
    """A rule on single rows; ``expression`` is true where the row is wrong, and never null."""

    name: str
    reason: str
    severity: str
    expression: pl.Expr


# Bounds of a table as a whole that Great Expectations does not know: type -> arguments, and those
# it may have.
_BOUNDS: dict[str, tuple[set[str], set[str]]] = {
    "quarantined_share": ({"max_value"}, set()),
    "volume_change": ({"min_ratio", "max_ratio"}, set()),
    "distribution_shift": ({"max_distance", "min_count"}, {"by", "of", "value"}),
}


@dataclass(frozen=True)
class Bound:
    """A bound of the table as a whole: of the quarantine, or against the last snapshot
    (m3h_pipeline/contracts/changes.py).
    """

    severity: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Contract:
    """A contract as the pipeline uses it; rules are in the order in which the first one that fails
    names the reason.

    ``columns``: the table's columns and types; ``optional``: those of them that a table may lack;
    ``relationships``: column -> (lookup table, its column); ``computed``: column -> SQL; ``open``:
    columns beyond these are passed on; ``bounds``: of the table as a whole; ``freshness``: a time
    column and how many days old its newest value may be; ``about``: what each column holds, in
    words.
    """

    table: str
    columns: Mapping[str, pl.DataType]
    about: Mapping[str, str]
    optional: frozenset[str]
    open: bool
    relationships: Mapping[str, tuple[str, str]]
    computed: Mapping[str, str]
    rules: tuple[Rule, ...]
    bounds: Mapping[str, Bound]
    freshness: tuple[str, int] | None
    verified_rows: int

    def rules_for(self, columns: Iterable[str]) -> list[Rule]:
        """The rules that can be judged on a table with these columns (optional ones may be
        absent).
        """
        absent = self.optional - set(columns)
        return [rule for rule in self.rules if absent.isdisjoint(rule.columns)]

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of the table's checks, in the order in which `validate` reports them."""
        asked = {
            "volume": any(rule.type == _ROW_COUNT for rule in self.rules),
            "warnings": any(rule.severity == "warning" for rule in self.rules),
            "change_in_volume": "volume_change" in self.bounds,
            "distribution": "distribution_shift" in self.bounds,
            "freshness": self.freshness is not None,
        }
        return tuple(name for name in _CHECKS if asked.get(name, True))


@dataclass(frozen=True)
class SplitResult:
    """How a table was split.

    ``quarantined_by_rule``: rule -> rows; ``by_file``: source file -> {"kept" or a rule: rows}. The
    rows sum to the rows read, over all and within each file.
    """

    kept: int
    quarantined_by_rule: dict[str, int]
    by_file: dict[str, dict[str, int]]

    @property
    def quarantined(self) -> int:
        """All rows in quarantine."""
        return sum(self.quarantined_by_rule.values())

    @property
    def share(self) -> float:
        """Share of rows that are wrong themselves: those that only went with their sample don't
        count.

        >>> SplitResult(90, {"empty_text": 10, "sample_quarantined": 50}, {}).share
        0.1
        """
        wrong = self.quarantined - self.quarantined_by_rule.get(SAMPLE_QUARANTINED, 0)
        return wrong / (self.kept + wrong) if wrong else 0.0


@dataclass(frozen=True)
class CheckResult:
    """Verdict of one check, for people and for Dagster; ``observed`` holds counts and rule names,
    no patient's values.

    ``severity``: "error" stops the pipeline, "warning" does not. ``passed`` with a ``note`` in
    ``observed`` means that nothing was judged (m3h_pipeline/contracts/check_states.py).
    """

    name: str
    passed: bool
    severity: str
    description: str
    observed: dict[str, int | float | str]


def validate(
    table: str,
    ingested: Path,
    to: Path,
    *,
    samples: Path | None = None,
    tasks: Sequence[TaskSpec | dict[str, Any]] = (),
    signals: Sequence[Mapping[str, Any]] = (),
    declared: Iterable[str] = (),
    unread: Sequence[str] = (),
    occasion: Occasion | None = None,
) -> dict[str, Any]:
    """Split a table into ``to/<table>.parquet`` and ``to/quarantine.parquet``, then verify what was
    kept.

    ``samples``: the valid samples, with their quarantine beside them; None for the samples
    themselves. ``signals``: codes beyond those of signals.yaml, each with code, unit, low and high,
    or null where there is no such bound. ``declared``: columns beyond the contract's; ``unread``:
    columns of the source's file that nobody reads; ``occasion``: the snapshot, and the last one
    before it (None: judged by itself). A table of the wrong shape is not split: the check
    ``schema`` says why, and nothing of the table is kept. Returns JSON-ready facts: kept,
    quarantined (by rule), by_file, checks (each a `CheckResult` as a dict) and findings (what the
    plausibility checks found).
    """
    from m3h_pipeline.contracts.changes import Occasion, judge, settle
    from m3h_pipeline.contracts.plausibility import Tables, examine

    occasion = occasion or Occasion("")
    declared = list(declared)
    specs = [task if isinstance(task, TaskSpec) else TaskSpec.from_dict(task) for task in tasks]
    valid = to / f"{table}.parquet"
    contract = load_contract(table)
    if problems := _shape_problems(contract, pl.read_parquet_schema(ingested), declared):
        return _refused(contract, problems, valid)
    split = split_rows(
        table,
        ingested,
        valid,
        to / "quarantine.parquet",
        samples=samples,
        quarantined_samples=samples and samples.with_name("quarantine.parquet"),
        tasks=specs,
        signals=signals,
    )
    checks = verify(table, valid, split, samples=samples, tasks=specs, signals=signals)
    checks += judge(contract, valid, occasion)
    checks.sort(key=lambda check: contract.checks.index(check.name))
    examined = examine(
        Tables(
            table=table,
            ingested=ingested,
            valid=valid,
            tasks=specs,
            signals=signals,
            declared=declared,
            unread=unread,
            accepted=occasion.entries,
        )
    )
    checks += [settle(check, occasion) for check in examined.checks]
    return {
        "kept": split.kept,
        "quarantined": split.quarantined_by_rule,
        "by_file": split.by_file,
        "checks": [asdict(with_state(check)) for check in checks],
        "findings": [
            finding.to_dict()
            for finding in examined.findings
            if finding.check not in occasion.accepted
        ],
    }


def _shape_problems(
    contract: Contract, schema: Mapping[str, pl.DataType], declared: Iterable[str]
) -> list[str]:
    """What is missing, extra or of another type, in a data steward's words."""
    from m3h_pipeline.contracts.changes import kind

    expected = dict(contract.columns) | PROVENANCE
    problems = [
        f"the column {name} is missing"
        for name in expected
        if name not in schema and name not in contract.optional
    ]
    problems += [
        f"the column {name} is {kind(schema[name])} ({schema[name]}), the contract says "
        f"{kind(dtype)} ({dtype})"
        for name, dtype in expected.items()
        if name in schema and schema[name] not in (dtype, pl.Null())
    ]
    known = expected.keys() | (set(declared) if contract.open else set())
    problems += [
        f"the column {name} is neither in the contract nor declared in columns.json"
        for name in schema
        if name not in known
    ]
    return problems


def _refused(contract: Contract, problems: Sequence[str], valid: Path) -> dict[str, Any]:
    """The results of a table of the wrong shape: empty, for nothing of it can be trusted."""
    pl.DataFrame(schema=dict(contract.columns)).write_parquet(valid)
    quarantine = valid.with_name("quarantine.parquet")
    create_private_file(quarantine)
    names = ("row", "rule", "reason", "source_file")
    pl.DataFrame(
        schema={**dict.fromkeys(names, pl.String()), "source_row": pl.Int64()}
    ).write_parquet(quarantine)
    write_quarantine_csv(quarantine, {})
    text = (
        f"{'; '.join(problems)}. The source must deliver what "
        f"data_contracts/{contract.table}.odcs.yaml says: mend the extraction, or change the "
        "contract and raise its version, then run again."
    )
    text = text[0].upper() + text[1:]
    shape = CheckResult("schema", False, "error", text, {"problems": len(problems)})
    unjudged = [
        CheckResult(
            name,
            True,
            "error",
            "Not judged: the table has the wrong shape.",
            {"note": "not judged"},
        )
        for name in check_names(contract.table)
        if name != "schema"
    ]
    checks = [asdict(with_state(check)) for check in (shape, *unjudged)]
    return {"kept": 0, "quarantined": {}, "by_file": {}, "checks": checks, "findings": []}


def check_names(table: str) -> list[str]:
    """Names of the checks that `verify` reports for a table."""
    return list(check_descriptions(table))


def check_descriptions(table: str) -> dict[str, str]:
    """The checks of a table and what each means; quick, without Great Expectations.

    >>> list(check_descriptions("notes"))
    ['schema', 'contract', 'quarantine', 'change_in_volume', 'distribution']
    >>> list(check_descriptions("labels"))[-3:]
    ['sentinels', 'outliers', 'categories']
    """
    from m3h_pipeline.contracts.plausibility import descriptions

    return {name: _CHECKS[name] for name in load_contract(table).checks} | descriptions(table)


# --------------------------------------------------------------------------------------------------
# Reading a contract


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
        contract = _contract(table, tables[0], document.get("slaProperties", ()))
        _check_rules(contract)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{file}: {reason}") from None
    return contract


def _check_standard(file: Path, document: object) -> None:
    """Hold the file against the standard's own JSON schema, which refuses unknown keys (tools drop
    them silently).
    """
    from jsonschema import Draft201909Validator

    schema = json.loads(
        (resources.files("open_data_contract_standard") / "schema.json").read_text(encoding="utf-8")
    )
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


def _contract(table: str, schema: dict[str, Any], sla: Sequence[dict[str, Any]]) -> Contract:
    of_table = _custom(schema)
    columns = {}
    optional = set()
    relationships = {}
    keys = []
    rules: list[Rule] = []
    unique: list[Rule] = []
    for column in schema["properties"]:
        name = column["name"]
        if column["physicalType"] not in _TYPES:
            raise ValueError(f"{name}: physicalType must be one of {', '.join(_TYPES)}")
        columns[name] = _TYPES[column["physicalType"]]
        own = _custom(column)
        if column.get("logicalTypeOptions"):
            raise ValueError(
                f"{name}: logicalTypeOptions are not translated: write a quality rule instead"
            )
        if own.get("mayBeAbsent"):
            optional.add(name)
        if column.get("primaryKey"):
            keys.append((column["primaryKeyPosition"], name))
        if column.get("required"):
            rules.append(_rule(f"missing_{name}", f"{name} must be there.", _NOT_NULL, column=name))
        if "forbiddenPattern" in own:
            text = (
                f"{name} must have 1 to 128 characters, none of them broken and no control "
                "characters."
            )
            rules.append(
                _rule(
                    f"malformed_{name}", text, _NO_MATCH, column=name, regex=own["forbiddenPattern"]
                )
            )
        for relationship in column.get("relationships", ()):
            to, _, to_column = relationship["to"].partition(".")
            if to_column not in _LOOKUPS.get(to, ()):
                raise ValueError(f"{name}: there is no {relationship['to']} to refer to")
            relationships[name] = (to, to_column)
            named = next(p for p in relationship["customProperties"] if p["property"] == "rule")
            rules.append(
                _rule(named["value"], named["description"], _NOT_NULL, column=f"{to}_{to_column}")
            )
        if column.get("unique"):
            text = f"No earlier row may have the same {name}; the first is kept."
            unique.append(_rule(f"duplicate_{name}", text, _UNIQUE, column=name))
        rules += _quality_rules(column)
    if keys:
        key = [name for _, name in sorted(keys)]
        text = f"No earlier row may have the same {', '.join(key)}; the first is kept."
        same = (_UNIQUE, {"column": key[0]}) if len(key) == 1 else (_COMPOUND, {"column_list": key})
        unique.append(Rule("duplicate_key", text, "error", *same))
    return Contract(
        table=table,
        columns=columns,
        about={column["name"]: column.get("description", "") for column in schema["properties"]},
        optional=frozenset(optional),
        open=bool(of_table.get("additionalColumns")),
        relationships=relationships,
        computed=of_table.get("computedColumns", {}),
        rules=(*rules, *_quality_rules(schema), *unique),
        bounds=_bounds(schema["quality"], columns),
        freshness=_latency(table, sla, columns),
        verified_rows=of_table["verifiedRows"],
    )


def _bounds(
    rules: Sequence[dict[str, Any]], columns: Mapping[str, pl.DataType]
) -> dict[str, Bound]:
    bounds = {}
    for rule in rules:
        if rule.get("engine") != "m3h":
            continue
        how = rule["implementation"]
        if how["type"] not in _BOUNDS:
            raise ValueError(
                f"{rule['name']}: engine m3h knows the types {', '.join(_BOUNDS)}, not "
                f"{how['type']}"
            )
        needed, allowed = _BOUNDS[how["type"]]
        if wrong := needed - how["kwargs"].keys() | how["kwargs"].keys() - needed - allowed:
            raise ValueError(
                f"{rule['name']}: {min(wrong)}: {how['type']} takes "
                f"{', '.join(sorted(needed | allowed))}"
            )
        if (
            unknown := {how["kwargs"][key] for key in allowed & how["kwargs"].keys()}
            - columns.keys()
        ):
            raise ValueError(f"{rule['name']}: there is no column {min(unknown)}")
        bounds[how["type"]] = Bound(_severity(rule), how["kwargs"])
    if "quarantined_share" not in bounds:
        raise ValueError(
            "there must be a quality rule with engine m3h and implementation.type quarantined_share"
        )
    return bounds


def _latency(
    table: str, sla: Sequence[dict[str, Any]], columns: Mapping[str, pl.DataType]
) -> tuple[str, int] | None:
    """The standard's own property for freshness: the column whose newest value counts, and the days
    it may be old.
    """
    entries = [entry for entry in sla if entry["property"] == "latency"]
    for entry in entries:
        of, _, column = entry["element"].partition(".")
        if of != table or column not in columns or not columns[column].is_temporal():
            raise ValueError(f"slaProperties: {entry['element']} is no time column of {table}")
        if entry.get("unit") not in ("d", "day", "days") or not isinstance(entry["value"], int):
            raise ValueError("slaProperties: write a latency as a whole number with unit d")
        return column, entry["value"]
    return None


def _severity(rule: Mapping[str, Any]) -> str:
    if rule["severity"] not in ("error", "warning"):
        raise ValueError(f"{rule['name']}: severity must be error or warning")
    return rule["severity"]


def _custom(element: Mapping[str, Any]) -> dict[str, Any]:
    return {entry["property"]: entry["value"] for entry in element.get("customProperties", ())}


def _rule(name: str, description: str, type_: str, **kwargs: Any) -> Rule:
    return Rule(name, description, "error", type_, kwargs)


def _quality_rules(element: Mapping[str, Any]) -> list[Rule]:
    rules = []
    for quality in element.get("quality", ()):
        if quality.get("engine") == "m3h":
            continue
        if quality.get("type") != "custom" or quality.get("engine") != "greatExpectations":
            raise ValueError(
                f"{quality.get('name')}: a rule needs type custom and engine greatExpectations (so "
                "spelt)"
            )
        how = quality["implementation"]
        rules.append(
            Rule(
                quality["name"],
                quality["description"],
                _severity(quality),
                how["type"],
                how["kwargs"],
            )
        )
    return rules


def _check_rules(contract: Contract) -> None:
    """Translate all rules once, so that a mistake shows when the contract is read."""
    seen = set(contract.columns)
    for to, _ in contract.relationships.values():
        seen |= {f"{to}_{column}" for column in _LOOKUPS[to]}
    for name, sql in contract.computed.items():
        try:
            unknown = set(pl.sql_expr(sql).meta.root_names()) - seen
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{name}: {sql}: {error}") from None
        if unknown:
            raise ValueError(f"{name}: there is no column {min(unknown)}")
    names: set[str] = set()
    for rule in contract.rules:
        if rule.type not in _WRONG and rule.type not in _ON_TABLES:
            raise ValueError(
                f"{rule.name}: {rule.type} is not translated; add it to m3h_pipeline/contracts.py"
            )
        if unknown := set(rule.columns) - seen - contract.computed.keys():
            raise ValueError(f"{rule.name}: there is no column {min(unknown)}")
        if rule.name in names:
            raise ValueError(f"{rule.name}: there are two rules of this name")
        names.add(rule.name)
        if rule.on_rows:
            _row_rule(rule)
        if rule.type in (_UNIQUE, _COMPOUND) and contract.optional.intersection(rule.columns):
            raise ValueError(f"{rule.name}: a key can't have columns that may be absent")


# --------------------------------------------------------------------------------------------------
# The translator: a rule as a Polars expression that is true where the row is wrong, and as an
# expectation


def row_rules(contract: Contract, columns: Iterable[str] | None = None) -> list[RowRule]:
    """The contract's rules on single rows, for a table with these columns (default: all of the
    contract's).

    >>> [rule.name for rule in row_rules(load_contract("labels"))][-5:]
    ['not_a_class', 'class_below_zero', 'class_beyond_last', 'infinite_label', 'duplicate_key']
    """
    columns = contract.columns if columns is None else columns
    return [_row_rule(rule) for rule in contract.rules_for(columns) if rule.on_rows]


def suite(contract: Contract) -> dict[str, Any]:
    """The contract as a Great Expectations suite, JSON-ready; this is what
    ``data_contracts/suites`` holds.

    It reads the table's own columns and, beside them, looked-up and computed ones.
    """
    return {"name": contract.table, "expectations": [rule.expectation for rule in contract.rules]}


def _row_rule(rule: Rule) -> RowRule:
    try:
        wrong = _WRONG[rule.type](**rule.kwargs)
    except TypeError as error:
        raise ValueError(f"{rule.name}: {rule.type}: {str(error).partition(' ')[2]}") from None
    # As in Great Expectations, a missing value breaks no rule but the one that asks for it.
    return RowRule(rule.name, rule.description, rule.severity, wrong.fill_null(False))


def _not_null(*, column: str) -> pl.Expr:
    return pl.col(column).is_null()


def _between(
    *, column: str, min_value: float | None = None, max_value: float | None = None
) -> pl.Expr:
    wrong = pl.lit(False)
    if min_value is not None:
        wrong |= pl.col(column) < min_value
    if max_value is not None:
        wrong |= pl.col(column) > max_value
    return wrong


def _in_set(*, column: str, value_set: list[Any]) -> pl.Expr:
    return ~pl.col(column).is_in(value_set)


def _no_match(*, column: str, regex: str) -> pl.Expr:
    # In Python's dialect, which Great Expectations uses, $ also matches before a last line break:
    # end no pattern so.
    return pl.col(column).str.contains(regex)


def _a_at_least_b(*, column_A: str, column_B: str, or_equal: bool, ignore_row_if: str) -> pl.Expr:
    _check_missing(ignore_row_if)
    a = pl.col(column_A)
    b = pl.col(column_B)
    return a < b if or_equal else a <= b


def _equal(*, column_A: str, column_B: str, ignore_row_if: str) -> pl.Expr:
    _check_missing(ignore_row_if)
    return pl.col(column_A) != pl.col(column_B)


def _unique(*, column: str) -> pl.Expr:
    return ~pl.col(column).is_first_distinct()


def _compound_unique(*, column_list: list[str]) -> pl.Expr:
    return ~pl.struct(column_list).is_first_distinct()


def _check_missing(ignore_row_if: str) -> None:
    if ignore_row_if != "either_value_is_missing":
        raise ValueError("a rule on two columns needs ignore_row_if: either_value_is_missing")


_NOT_NULL = "expect_column_values_to_not_be_null"
_NO_MATCH = "expect_column_values_to_not_match_regex"
_UNIQUE = "expect_column_values_to_be_unique"
_COMPOUND = "expect_compound_columns_to_be_unique"
_ROW_COUNT = "expect_table_row_count_to_be_between"
_WRONG: dict[str, Callable[..., pl.Expr]] = {
    _NOT_NULL: _not_null,
    _NO_MATCH: _no_match,
    _UNIQUE: _unique,
    _COMPOUND: _compound_unique,
    "expect_column_values_to_be_between": _between,
    "expect_column_values_to_be_in_set": _in_set,
    "expect_column_pair_values_a_to_be_greater_than_b": _a_at_least_b,
    "expect_column_pair_values_to_be_equal": _equal,
}
_ON_TABLES = (_ROW_COUNT, "expect_column_distinct_values_to_contain_set")


# --------------------------------------------------------------------------------------------------
# Splitting good rows from wrong ones


def split_rows(
    table: str,
    ingested: Path,
    to_valid: Path,
    to_quarantine: Path,
    *,
    samples: Path | None,
    tasks: Sequence[TaskSpec],
    quarantined_samples: Path | None = None,
    signals: Sequence[Mapping[str, Any]] = (),
) -> SplitResult:
    """Write a table's good rows, without provenance, and its wrong rows, each with its reason; both
    in source order.

    A row's reason is the first rule that it breaks: that of its sample being in quarantine, an
    unreadable field, then the contract's rules in their order; keys are compared last and among
    good rows only, so that a wrong row never takes the place of a good one. The quarantine has the
    columns row (all canonical columns as a JSON object of strings), rule, reason, source_file and
    source_row; only its owner can read it, and the CSV file beside it.

    ``samples``: the valid samples (None for the samples themselves); ``quarantined_samples``: their
    quarantine. Raises `InputError` where a column is missing or has another type than the contract
    says.
    """
    contract = load_contract(table)
    rows = pl.scan_parquet(ingested, row_index_name="_row")
    columns = _check_schema(contract, ingested, rows.collect_schema())
    lookups = _lookups(contract, rows, samples, tasks, signals)
    keys = {rule.name: rule.columns for rule in contract.rules if rule.type in (_UNIQUE, _COMPOUND)}
    rules = [rule for rule in row_rules(contract, columns) if rule.severity == "error"]
    ordered = [
        RowRule(
            SAMPLE_QUARANTINED,
            "Its sample is in quarantine.",
            "error",
            _of(contract, quarantined_samples),
        ),
        RowRule(
            UNREADABLE,
            "These fields could not be read",
            "error",
            pl.col("parse_errors").is_not_null(),
        ),
        *sorted(rules, key=lambda rule: rule.name in keys),
    ]
    number = {rule.name: pl.lit(i, pl.Int16) for i, rule in enumerate(ordered)}
    good = pl.col("_verdict").is_null()
    verdict = pl.coalesce(
        pl.when(r.expression).then(number[r.name]) for r in ordered if r.name not in keys
    )
    judged = _view(contract, rows, lookups).with_columns(verdict.alias("_verdict"))
    for name, key in keys.items():
        duplicate = good & pl.col("_row").is_in(
            _later_duplicates(judged.filter(good), key).implode()
        )
        judged = judged.with_columns(
            pl.when(duplicate).then(number[name]).otherwise("_verdict").alias("_verdict")
        )

    _sink(judged.filter(good).select(columns), to_valid)
    names, reasons = (
        {i: getattr(rule, what) for i, rule in enumerate(ordered)} for what in ("name", "reason")
    )
    rule, reason = (
        pl.col("_verdict").replace_strict(words, return_dtype=pl.String)
        for words in (names, reasons)
    )
    fields = (
        pl.when(rule == UNREADABLE)
        .then(pl.concat_str(pl.lit(": "), "parse_errors"))
        .otherwise(pl.lit(""))
    )
    create_private_file(to_quarantine)
    wrong = judged.filter(~good).select(
        pl.struct(_as_text(name, contract) for name in columns).struct.json_encode().alias("row"),
        rule.alias("rule"),
        (reason + fields).alias("reason"),
        "source_file",
        "source_row",
    )
    _sink(wrong, to_quarantine)
    write_quarantine_csv(to_quarantine, columns_of_rules(contract))
    return _count(rows, to_quarantine, [rule.name for rule in ordered])


def _as_text(name: str, contract: Contract) -> pl.Expr:
    if isinstance(contract.columns.get(name), pl.List):
        return pl.col(name).cast(pl.List(pl.String)).list.join(", ")
    return pl.col(name).cast(pl.String)


def _check_schema(contract: Contract, file: Path, schema: pl.Schema) -> list[str]:
    """The table's columns that go on; raises where one is missing or has the wrong type."""
    expected = dict(contract.columns) | PROVENANCE
    missing = [name for name in expected if name not in schema and name not in contract.optional]
    if missing:
        raise InputError(f"{contract.table}: {file} lacks the column {', '.join(missing)}")
    for name, dtype in expected.items():
        # A column without any value has no type of its own.
        if name in schema and schema[name] not in (dtype, pl.Null()):
            raise InputError(
                f"{contract.table}: {file}: {name} is {schema[name]}, the contract says {dtype}"
            )
    named = [name for name in contract.columns if name in schema]
    extra = [name for name in schema if contract.open and name not in expected and name != "_row"]
    return named + extra


def _lookups(
    contract: Contract,
    rows: pl.LazyFrame,
    samples: Path | None,
    tasks: Sequence[TaskSpec],
    signals: Sequence[Mapping[str, Any]] = (),
) -> dict[str, pl.LazyFrame]:
    """Column with a relationship -> what it refers to: its key once more as that column, and
    <table>_<column>.
    """
    frames = {}
    for column, (to, key) in contract.relationships.items():
        if to == "samples":
            if samples is None:
                raise ValueError(
                    f"{contract.table} refers to samples: say where the valid ones are"
                )
            frame = pl.scan_parquet(samples).select(_LOOKUPS[to])
        elif to == "tasks":
            last = {"binary": 1, "regression": None, "clustering": None}
            entries = [
                (t.name, t.problem, last.get(t.problem, (t.n_classes or 0) - 1)) for t in tasks
            ]
            frame = pl.LazyFrame(
                entries,
                {"name": pl.String, "problem": pl.String, "last_class": pl.Float64},
                orient="row",
            )
        elif to == "signals":
            entries = [(s.code, s.unit, float(s.low), float(s.high)) for s in load_signals()]
            entries += [(s["code"], s["unit"], s["low"], s["high"]) for s in signals]
            schema = {"code": pl.String, "unit": pl.String, "low": pl.Float64, "high": pl.Float64}
            frame = pl.LazyFrame(entries, schema, orient="row")
        else:
            paths = (
                rows.select(pl.col(column).cast(pl.String).drop_nulls().unique().sort())
                .collect()
                .to_series()
            )
            sizes = [(path, size) for path in paths if (size := _file_size(path)) is not None]
            frame = pl.LazyFrame(sizes, {"path": pl.String, "bytes": pl.Int64}, orient="row")
        renamed = frame.unique(key, keep="first", maintain_order=True).rename(
            lambda name, to=to: f"{to}_{name}"
        )
        frames[column] = renamed.with_columns(pl.col(f"{to}_{key}").alias(column))
    return frames


def _file_size(path: str) -> int | None:
    try:
        return os.stat(path).st_size if os.access(path, os.R_OK) and os.path.isfile(path) else None
    except (OSError, ValueError):
        return None


def _view(
    contract: Contract, rows: pl.LazyFrame, lookups: Mapping[str, pl.LazyFrame]
) -> pl.LazyFrame:
    """The rows with their types, looked-up and computed columns: what rules see. Not-a-number
    counts as missing.
    """
    schema = rows.collect_schema()
    types = {
        name: dtype
        for name, dtype in (dict(contract.columns) | PROVENANCE).items()
        if name in schema
    }
    rows = rows.with_columns(
        pl.col(name).cast(dtype).fill_nan(None) if dtype.is_float() else pl.col(name).cast(dtype)
        for name, dtype in types.items()
    )
    for column, lookup in lookups.items():
        rows = rows.join(lookup, on=column, how="left", maintain_order="left")
    return rows.with_columns(
        pl.sql_expr(sql).alias(name) for name, sql in contract.computed.items()
    )


def _of(contract: Contract, quarantined_samples: Path | None) -> pl.Expr:
    """True where a row refers to a sample that is in quarantine and has no valid twin."""
    own = [(column, key) for column, (to, key) in contract.relationships.items() if to == "samples"]
    if quarantined_samples is None or not own:
        return pl.lit(False)
    column, key = own[0]
    ids = (
        pl.scan_parquet(quarantined_samples)
        .select(pl.col("row").str.json_path_match(f"$.{key}"))
        .collect()
        .to_series()
    )
    return pl.col(f"samples_{key}").is_null() & pl.col(column).is_in(
        ids.drop_nulls().unique().implode()
    )


def _later_duplicates(rows: pl.LazyFrame, key: list[str]) -> pl.Series:
    """Row numbers of all but the first of the rows that share a key.

    Only a hash of each key is held at a time; the keys themselves are compared where hashes agree.
    """
    hashes = rows.select("_row", pl.struct(key).hash().alias("hash")).collect(engine="streaming")
    suspects = hashes.filter(pl.col("hash").is_duplicated())["_row"]
    if suspects.is_empty():
        return suspects
    found = rows.filter(pl.col("_row").is_in(suspects.implode())).select("_row", *key).collect()
    return found.sort("_row").filter(~pl.struct(key).is_first_distinct())["_row"]


def _sink(rows: pl.LazyFrame, file: Path) -> None:
    # A fixed group size, so that the same rows give the same bytes however many threads there are.
    rows.sink_parquet(file, compression="zstd", row_group_size=200_000, engine="streaming")


def _count(rows: pl.LazyFrame, quarantine: Path, order: list[str]) -> SplitResult:
    file = pl.col("source_file").fill_null("")
    totals = dict(rows.group_by(file).len().collect().sort("source_file").iter_rows())
    wrong = pl.scan_parquet(quarantine).group_by(file, "rule").len().collect()
    by_file: dict[str, dict[str, int]] = {name: {"kept": total} for name, total in totals.items()}
    by_rule: dict[str, int] = {}
    for name, rule, n in sorted(wrong.iter_rows(), key=lambda row: (order.index(row[1]), row[0])):
        by_file[name]["kept"] -= n
        by_file[name][rule] = n
        by_rule[rule] = by_rule.get(rule, 0) + n
    return SplitResult(sum(counts["kept"] for counts in by_file.values()), by_rule, by_file)


# --------------------------------------------------------------------------------------------------
# Verifying what was kept


def verify(
    table: str,
    valid: Path,
    split: SplitResult,
    *,
    samples: Path | None = None,
    tasks: Sequence[TaskSpec] = (),
    signals: Sequence[Mapping[str, Any]] = (),
) -> list[CheckResult]:
    """Hold the kept rows against the contract anew, with Great Expectations, and bound what was not
    kept.

    All rows are verified up to the number that the contract names, and every k-th beyond.
    Returns the checks that need no other snapshot.
    """
    contract = load_contract(table)
    rows = pl.scan_parquet(valid)
    total = rows.select(pl.len()).collect().item()
    rules = contract.rules_for(rows.collect_schema().names())
    of_rows = [rule for rule in rules if rule.type != _ROW_COUNT]
    failed: set[str] = set()
    step = -(-total // contract.verified_rows)
    if total:
        lookups = _lookups(contract, rows.gather_every(step), samples, tasks, signals)
        view = _view(contract, rows.gather_every(step), lookups)
        needed = list(dict.fromkeys(column for rule in of_rows for column in rule.columns))
        failed = _failed_expectations(view.select(needed).collect(engine="streaming"), of_rows)
    observed = {"rows": total, "rows verified": -(-total // step) if total else 0}
    results = {
        "contract": _verdict(
            "contract", [rule for rule in of_rows if rule.severity == "error"], failed, observed
        ),
        "quarantine": _quarantine_verdict(contract, split),
        "volume": _volume_verdict([rule for rule in rules if rule.type == _ROW_COUNT], total),
        "warnings": _verdict(
            "warnings", [rule for rule in of_rows if rule.severity == "warning"], failed, observed
        ),
    }
    return [results[name] for name in contract.checks if name in results]


def _failed_expectations(view: pl.DataFrame, rules: Sequence[Rule]) -> set[str]:
    """Names of the rules that Great Expectations finds broken, or can't judge."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = context.data_sources.pandas_default.read_dataframe(view.to_pandas())
    suite = gx.ExpectationSuite(name="rules", expectations=[rule.expectation for rule in rules])
    # Booleans only: anything more would carry patients' values into results and logs.
    outcome = batch.validate(suite, result_format="BOOLEAN_ONLY")
    configurations = [result.expectation_config for result in outcome.results if not result.success]
    return {
        configuration.meta["name"]
        for configuration in configurations
        if configuration and configuration.meta
    }


def _verdict(
    name: str, rules: Sequence[Rule], failed: set[str], observed: Mapping[str, int]
) -> CheckResult:
    broken = [rule for rule in rules if rule.name in failed]
    severity = "warning" if name == "warnings" else "error"
    facts: dict[str, int | float | str] = {**observed, "rules": len(rules)}
    if not observed["rows"]:
        return CheckResult(
            name,
            True,
            severity,
            "There are no rows, so no rule was judged.",
            facts | {"note": "no rows"},
        )
    if not broken:
        return CheckResult(
            name, True, severity, f"All {len(rules)} rules hold for the rows that were kept.", facts
        )
    text = " ".join(f"{rule.name}: {rule.description}" for rule in broken)
    facts["broken"] = ", ".join(rule.name for rule in broken)
    return CheckResult(
        name, False, severity, f"{len(broken)} of {len(rules)} rules are broken. {text}", facts
    )


def _quarantine_verdict(contract: Contract, split: SplitResult) -> CheckResult:
    bound = contract.bounds["quarantined_share"].kwargs["max_value"]
    severity = contract.bounds["quarantined_share"].severity
    facts: dict[str, int | float | str] = {
        "rows": split.kept + split.quarantined,
        "quarantined": split.quarantined,
        "share": round(split.share, 6),
        "bound": bound,
        **{f"rule {rule}": rows for rule, rows in split.quarantined_by_rule.items()},
    }
    if not split.kept + split.quarantined:
        return CheckResult(
            "quarantine", True, severity, "There are no rows.", facts | {"note": "no rows"}
        )
    own = {
        rule: rows for rule, rows in split.quarantined_by_rule.items() if rule != SAMPLE_QUARANTINED
    }
    share = (
        f"Fewer than {MIN_GROUP_SIZE}"
        if 0 < split.quarantined < MIN_GROUP_SIZE
        else f"{split.share:.2%}"
    )
    text = f"{share} of the rows are in quarantine; the contract allows {bound:.0%}."
    if own:
        most = max(own, key=lambda rule: own[rule])
        text += (
            f" Most frequent reason: {most} ({format_count(own[most])} of {facts['rows']:,} rows)."
        )
        text += " Each lies in quarantine.parquet with its reason."
    return CheckResult("quarantine", split.share <= bound, severity, text, facts)


def _volume_verdict(rules: Sequence[Rule], total: int) -> CheckResult:
    # Counted here: Great Expectations may see only a part of the rows, and judges an empty table
    # unevenly.
    broken = [
        rule
        for rule in rules
        if not rule.kwargs.get("min_value", 0) <= total <= rule.kwargs.get("max_value", total)
    ]
    text = " ".join(rule.description for rule in broken) or f"There are {total:,} rows."
    facts: dict[str, int | float | str] = {"rows": total}
    return CheckResult(
        "volume", not broken, "error", text, facts if total else facts | {"note": "no rows"}
    )


def write_suites(folder: Path | None = None) -> list[Path]:
    """Write the suite of each contract beside it; returns the files."""
    folder = folder or contracts_folder() / "suites"
    folder.mkdir(exist_ok=True)
    files = []
    for table in TABLES:
        file = folder / f"{table}.json"
        file.write_text(
            json.dumps(suite(load_contract(table)), indent=2, ensure_ascii=True) + "\n",
            encoding="utf-8",
        )
        files.append(file)
    return files


if __name__ == "__main__":
    print("\n".join(str(file) for file in write_suites()))
