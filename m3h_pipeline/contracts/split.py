"""Split a table: good rows are kept, wrong ones go to quarantine, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from m3h_core.data.tasks import TaskSpec
from m3h_pipeline.contracts.expectations import COMPOUND_UNIQUE, UNIQUE
from m3h_pipeline.contracts.model import Contract
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.quarantine_csv import map_rules_to_columns, write_quarantine_csv
from m3h_pipeline.contracts.row_rules import RowRule, build_row_rules
from m3h_pipeline.contracts.shape import select_columns
from m3h_pipeline.contracts.view import build_lookups, build_view
from m3h_pipeline.state.permissions import create_private_file

# Rules of the pipeline itself, before those of any contract.
SAMPLE_QUARANTINED = "sample_quarantined"
UNREADABLE = "unreadable_field"


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
    columns = select_columns(contract, ingested, pl.read_parquet_schema(ingested))
    lookups = build_lookups(contract, rows, samples, tasks, signals)
    keys = {
        rule.name: rule.columns for rule in contract.rules if rule.type in (UNIQUE, COMPOUND_UNIQUE)
    }
    rules = _order_rules(contract, columns, keys, quarantined_samples)
    judged = _add_verdict(build_view(contract, rows, lookups), rules, keys)
    is_good = pl.col("_verdict").is_null()

    _sink(judged.filter(is_good).select(columns), to_valid)
    create_private_file(to_quarantine)
    _sink(_to_quarantine(judged.filter(~is_good), contract, columns, rules), to_quarantine)
    write_quarantine_csv(to_quarantine, map_rules_to_columns(contract))
    return _count_rows(rows, to_quarantine, [rule.name for rule in rules])


def _order_rules(
    contract: Contract,
    columns: Sequence[str],
    keys: Mapping[str, list[str]],
    quarantined_samples: Path | None,
) -> list[RowRule]:
    """All rules that send a row to quarantine, the one that names the reason first."""
    sample_quarantined = RowRule(
        SAMPLE_QUARANTINED,
        "Its sample is in quarantine.",
        "error",
        _is_of_quarantined_sample(contract, quarantined_samples),
    )
    unreadable = RowRule(
        UNREADABLE,
        "These fields could not be read",
        "error",
        pl.col("parse_errors").is_not_null(),
    )
    errors = [rule for rule in build_row_rules(contract, columns) if rule.severity == "error"]
    return [sample_quarantined, unreadable, *sorted(errors, key=lambda rule: rule.name in keys)]


def _is_of_quarantined_sample(contract: Contract, quarantined_samples: Path | None) -> pl.Expr:
    """True where a row refers to a sample that is in quarantine and has no valid twin."""
    references = [
        (column, key) for column, (to, key) in contract.relationships.items() if to == "samples"
    ]
    if quarantined_samples is None or not references:
        return pl.lit(False)
    column, key = references[0]
    ids = (
        pl.scan_parquet(quarantined_samples)
        .select(pl.col("row").str.json_path_match(f"$.{key}"))
        .collect()
        .to_series()
    )
    is_quarantined = pl.col(column).is_in(ids.drop_nulls().unique().implode())
    return pl.col(f"samples_{key}").is_null() & is_quarantined


def _add_verdict(
    view: pl.LazyFrame, rules: Sequence[RowRule], keys: Mapping[str, list[str]]
) -> pl.LazyFrame:
    """The view with the column _verdict: the place among ``rules`` of the first that the row
    breaks, null for a good row.
    """
    number = {rule.name: pl.lit(place, pl.Int16) for place, rule in enumerate(rules)}
    verdict = pl.coalesce(
        pl.when(rule.expression).then(number[rule.name]) for rule in rules if rule.name not in keys
    )
    judged = view.with_columns(verdict.alias("_verdict"))
    is_good = pl.col("_verdict").is_null()
    for name, key in keys.items():
        duplicates = _find_later_duplicates(judged.filter(is_good), key)
        is_duplicate = is_good & pl.col("_row").is_in(duplicates.implode())
        judged = judged.with_columns(
            pl.when(is_duplicate).then(number[name]).otherwise("_verdict").alias("_verdict")
        )
    return judged


def _find_later_duplicates(rows: pl.LazyFrame, key: list[str]) -> pl.Series:
    """Row numbers of all but the first of the rows that share a key.

    Only a hash of each key is held at a time; the keys themselves are compared where hashes agree.
    """
    hashes = rows.select("_row", pl.struct(key).hash().alias("hash")).collect(engine="streaming")
    suspects = hashes.filter(pl.col("hash").is_duplicated())["_row"]
    if suspects.is_empty():
        return suspects
    is_suspect = pl.col("_row").is_in(suspects.implode())
    suspect_rows = rows.filter(is_suspect).select("_row", *key).collect().sort("_row")
    return suspect_rows.filter(~pl.struct(key).is_first_distinct())["_row"]


def _to_quarantine(
    wrong: pl.LazyFrame, contract: Contract, columns: Sequence[str], rules: Sequence[RowRule]
) -> pl.LazyFrame:
    """Wrong rows as the quarantine holds them."""
    verdict = pl.col("_verdict")
    names = {place: rule.name for place, rule in enumerate(rules)}
    reasons = {place: rule.reason for place, rule in enumerate(rules)}
    rule = verdict.replace_strict(names, return_dtype=pl.String)
    reason = verdict.replace_strict(reasons, return_dtype=pl.String)
    unreadable_fields = (
        pl.when(rule == UNREADABLE)
        .then(pl.concat_str(pl.lit(": "), "parse_errors"))
        .otherwise(pl.lit(""))
    )
    row = pl.struct(_to_text(name, contract) for name in columns).struct.json_encode()
    return wrong.select(
        row.alias("row"),
        rule.alias("rule"),
        (reason + unreadable_fields).alias("reason"),
        "source_file",
        "source_row",
    )


def _to_text(name: str, contract: Contract) -> pl.Expr:
    if isinstance(contract.columns.get(name), pl.List):
        return pl.col(name).cast(pl.List(pl.String)).list.join(", ")
    return pl.col(name).cast(pl.String)


def _sink(rows: pl.LazyFrame, file: Path) -> None:
    # A fixed group size, so that the same rows give the same bytes however many threads there are.
    rows.sink_parquet(file, compression="zstd", row_group_size=200_000, engine="streaming")


def _count_rows(rows: pl.LazyFrame, quarantine: Path, order: list[str]) -> SplitResult:
    """Rows by file and rule; ``order``: the rules in the order in which they are counted out."""
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
