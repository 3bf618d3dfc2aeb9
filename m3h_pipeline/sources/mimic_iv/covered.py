"""Signals of a MIMIC-IV folder that nobody listed, from its tables of numbers and its dictionaries.

Read are ``labevents``, ``chartevents``, ``outputevents`` and the rates of ``inputevents``, in two
passes: the first counts, the second loads the chosen items.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from m3h_pipeline.sources.admissions.events import select_measured
from m3h_pipeline.sources.covered.choose import Choice, choose_signals
from m3h_pipeline.sources.covered.counting import (
    RecordColumns,
    count_items,
    make_training_periods,
    read_counts,
)
from m3h_pipeline.sources.covered.denied import load_denials
from m3h_pipeline.sources.covered.items import Item, ItemCounts
from m3h_pipeline.sources.covered.names import name_items
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.raw_tables import RawTable
from m3h_pipeline.sources.tasks_file import Signal
from m3h_pipeline.state.database import quote_literal

_DICTIONARIES = ("d_labitems", "d_items")
_NO_RECORD = "a name of an item, no record"
# Tables of numbers -> what stands before the id of an item without a label.
COVERED_TABLES = {
    "labevents": "lab",
    "chartevents": "chart",
    "outputevents": "output",
    "inputevents": "rate",
}
_RATE = "_rate"
_ITEM_ID = re.compile(r"[0-9]{1,12}")
_CHARTED = RecordColumns(
    taken="as_time(charttime)",
    available="known_since(as_time(storetime), as_time(charttime))",
    number="coalesce(as_number(valuenum), as_number(value))",
    text="coalesce(as_text(valuenum), nullif(as_text(value), '___'))",
    unit="valueuom",
)
_COLUMNS = {
    "labevents": _CHARTED,
    "chartevents": _CHARTED,
    "outputevents": RecordColumns(
        taken=_CHARTED.taken,
        available=_CHARTED.available,
        number="as_number(value)",
        text="nullif(as_text(value), '___')",
        unit="valueuom",
    ),
    "inputevents": RecordColumns(
        taken="as_time(starttime)",
        available="known_of_lasting(as_time(starttime), as_time(endtime), as_time(storetime))",
        number="as_number(rate)",
        text="as_text(rate)",
        unit="rateuom",
    ),
}
# What is kept of a row of the infusions, as `select_measured` has it.
_RATES = {
    "hadm_id": "as_id(hadm_id)",
    "subject_id": "as_id(subject_id)",
    "item": "as_text(itemid)",
    "taken": "as_time(starttime)",
    "stored": _COLUMNS["inputevents"].available,
    "number": "as_number(rate)",
    "valueuom": "rateuom",
    "nothing": "as_text(rate) IS NULL",
    "errors": """nullif(concat_ws('; ',
        not_a_date('starttime', starttime),
        not_a_date('endtime', endtime),
        not_a_date('storetime', storetime),
        not_a_number('rate', rate)
    ), '')""",
}


def choose_covered(extraction: Extraction, listed: Sequence[Signal]) -> Choice:
    """Count the items of all tables and choose, by ``signal_coverage`` of the settings.

    Needs ``sample_rows`` and ``splits``.
    """
    coverage = extraction.settings.signal_coverage
    assert coverage is not None, "the settings ask for listed signals alone"
    tables = [table for table in COVERED_TABLES if table in extraction.tables]
    dictionary = _read_dictionaries(extraction)
    n_stays = make_training_periods(extraction)
    with extraction.loading(
        {table: {"columns": _COLUMNS[table]} for table in tables},
        lambda table, columns: count_items(extraction, table, columns),
    ):
        pass
    counted = read_counts(extraction, tables)
    dictionary = _add_unnamed(dictionary, counted)
    taken = {signal.code for signal in listed}
    return choose_signals(
        counted,
        least_stays=coverage * n_stays,
        codes=name_items(list(dictionary.values()), taken),
        dictionary=dictionary,
        denials=load_denials(),
        listed={str(item) for signal in listed for item in signal.mimic_iv},
    )


def list_loads(
    choice: Choice, listed: Mapping[str, Sequence[str]], tables: Mapping[str, RawTable]
) -> dict[str, dict[str, Any]]:
    """The tables with measurements of listed or chosen signals, and the arguments that they are
    loaded with. ``listed``: table -> its listed items.
    """
    loads: dict[str, dict[str, Any]] = {}
    for table in COVERED_TABLES:
        if table not in tables:
            continue
        of_table = [*listed.get(table, ()), *choice.tables.get(table, ())]
        derived = _RATES if table == "inputevents" else _select_numbers(table, listed)
        loads[table] = {"where": _is_one_of(of_table), "derived": derived, "keep": False}
    return loads


def count_unread(extraction: Extraction, choice: Choice) -> None:
    """Note the rows of items that are no signals, each with the reason, in the lineage."""
    for table in COVERED_TABLES:
        if table not in extraction.tables:
            continue
        for reason, rows in choice.unread.get(table, {}).items():
            extraction.lineage.append(("events", table, reason, rows))
    for table in _DICTIONARIES:
        if table in extraction.tables:
            n_rows = extraction.rows_read[table]
            extraction.lineage.append(("events", table, _NO_RECORD, n_rows))


def _select_numbers(table: str, listed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """`select_measured` in which a text is no mistake, but in a signal that is listed."""
    number = "CASE WHEN as_number(value) IS NOT NULL THEN value END"
    if table == "outputevents":
        return select_measured(number=number, value="NULL::VARCHAR")
    is_listed = _is_one_of(listed.get(table, ()))
    return select_measured(
        value=f"CASE WHEN as_number(value) IS NOT NULL OR {is_listed} THEN value END"
    )


def _is_one_of(items: Sequence[str]) -> str:
    literals = ", ".join(quote_literal(item) for item in items)
    return f"as_text(itemid) IN ({literals})" if items else "FALSE"


def _read_dictionaries(extraction: Extraction) -> dict[str, Item]:
    """Item -> its entry; the first counts where an item is there twice."""
    entries: list[tuple[str, ...]] = []
    for table in _DICTIONARIES:
        if table not in extraction.tables:
            continue
        extraction.load(table)
        has_fluid = table == "d_labitems"
        others = "fluid, '', 'labevents'" if has_fluid else "'', param_type, linksto"
        rows = extraction.connection.execute(
            f"""SELECT coalesce(COLUMNS(*), '') FROM (
                SELECT as_text(itemid) AS item, label, category, {others} FROM raw_{table}
                WHERE as_text(itemid) IS NOT NULL AND broken IS NULL ORDER BY source_row
            )"""
        )
        entries += rows.fetchall()
    dictionary: dict[str, Item] = {}
    for item, label, category, fluid, param_type, table in entries:
        suffix = _RATE if table == "inputevents" else ""
        prefix = COVERED_TABLES.get(table, "item")
        entry = Item(item, label, category, param_type, fluid, prefix, suffix)
        dictionary.setdefault(item, entry)
    return dictionary


def _add_unnamed(dictionary: dict[str, Item], counted: Sequence[ItemCounts]) -> dict[str, Item]:
    """The dictionary with the items that records have and it lacks: numbers alone, for what else
    stands in that column may be a patient's, and codes are shown.
    """
    others = {
        counts.item: Item(counts.item, prefix=COVERED_TABLES[counts.table])
        for counts in counted
        if _ITEM_ID.fullmatch(counts.item) and counts.item not in dictionary
    }
    return dictionary | others
