"""From files to inputs, with signals that nobody listed: what was known after the prediction time
decides neither which these are, nor their units, nor a byte of the inputs.
"""

from __future__ import annotations

import copy
import datetime as dt
from types import MappingProxyType
from typing import Any

import mimic_folder
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_as_of_sources import QUICK, MimicFolder, Tables

from m3h_pipeline.sources import Settings

pytestmark = pytest.mark.slow(20)


class CoveredFolder(MimicFolder):
    """Two training stays and signals that enter only if both have them: what comes later changes
    neither which these are nor their units.
    """

    settings = Settings(signal_coverage=0.6, split=(1.0, 0.0, 0.0, 0.0))
    examples = 5
    # Stay -> its patient and its admission; it is predicted a day later.
    stays = MappingProxyType({21: (11, MimicFolder.admitted), 25: (13, dt.datetime(2150, 5, 1))})
    items = MappingProxyType(
        {
            "icu/chartevents": (220045, 220052),
            "hosp/labevents": (50813, 50809),
            "icu/outputevents": (226559,),
            "icu/inputevents": (221906,),
        }
    )

    def hospital(self, draw: Any) -> Tables:
        tables = super().hospital(draw)
        for table in self.items:
            first = mimic_folder.measurement(11, 21, str(self.admitted), 1, 5, "u")
            if table == "icu/inputevents":
                first = mimic_folder.infusion(11, 21, str(self.admitted), None, 1, 5, "u")
            tables[table] = [first, *draw(st.lists(self.record(table), min_size=4, max_size=12))]
        tables["icu/d_items"] = [mimic_folder.item(220052, "Arterial mean")]
        return tables

    def record(self, table: str) -> st.SearchStrategy[dict[str, Any]]:
        if table not in self.items:
            return super().record(table)

        @st.composite
        def rows(draw: Any) -> dict[str, Any]:
            stay = draw(st.sampled_from(list(self.stays)))
            subject, admitted = self.stays[stay]
            hours = st.sampled_from([1, 12, 23, 23.9, 24, 24.1, 30])
            start, end, stored = (admitted + dt.timedelta(hours=draw(hours)) for _ in range(3))
            item = draw(st.sampled_from(self.items[table]))
            value = draw(st.sampled_from([1, 2.5, 60, "high", None]))
            unit = draw(st.sampled_from(["mmol/L", "mg/dL", "mL/hour", ""]))
            if table == "icu/inputevents":
                row = mimic_folder.infusion(subject, stay, str(start), str(end), item, value, unit)
                return row | {"storetime": draw(st.sampled_from([str(stored), None]))}
            hadm = draw(st.sampled_from([stay, stay, None]))
            return mimic_folder.measurement(
                subject, hadm, str(start), item, value, unit, stored=str(stored)
            )

        return rows()

    def is_late(self, row: dict[str, Any]) -> bool:
        subject = row["subject_id"]
        predicted = self.stays[21 if subject == 11 else 25][1] + dt.timedelta(hours=24)
        if "starttime" not in row:
            times = [row["charttime"], row["storetime"]]
        elif row["storetime"] and row["storetime"] >= row["endtime"] > row["starttime"]:
            times = [row["starttime"]]
        else:
            times = [row["starttime"], row["storetime"]]
        return max(dt.datetime.fromisoformat(time) for time in times if time) > predicted

    def later(self, draw: Any, tables: Tables) -> Tables:
        after = copy.deepcopy(tables)
        for table in self.items:
            late = self.record(table).filter(self.is_late)
            early = [row for row in after[table] if not self.is_late(row)]
            after[table] = [*early, *draw(st.lists(late, max_size=20))]
            for row in early:
                # An infusion that ran on is saved again at its end.
                if "starttime" in row and row["storetime"] and draw(st.booleans()):
                    row |= {"endtime": "2151-01-01 00:00:00", "storetime": "2151-01-01 00:02:00"}
        self.change_outcomes(draw, after)
        return after


@settings(QUICK, max_examples=CoveredFolder.examples)
@given(data=st.data())
def test_neither_the_future_nor_the_order_of_rows_changes_a_byte(data):
    case = CoveredFolder()
    before = case.hospital(data.draw)
    after = case.later(data.draw, before)
    after = {name: data.draw(st.permutations(rows)) for name, rows in after.items()}
    assert case.inputs(after) == case.inputs(before)


def read_codes(tables: Tables, tmp_path) -> list[str]:
    (tmp_path / "inputs.parquet").write_bytes(CoveredFolder().inputs(tables)["timeseries.parquet"])
    return sorted(set(pl.read_parquet(tmp_path / "inputs.parquet")["code"].to_list()))


@pytest.mark.parametrize(
    ("table", "item", "code"),
    [
        ("icu/chartevents", 220052, "arterial_mean"),
        ("hosp/labevents", 50813, "lab_50813"),
        ("icu/outputevents", 226559, "output_226559"),
        ("icu/inputevents", 221906, "rate_221906"),
    ],
)
def test_a_record_counts_once_it_is_known(table, item, code, tmp_path):
    """Of two stays both must have the item: one has it in time, the other soon enough or not."""

    def make_tables(hours: float) -> Tables:
        tables: Tables = {}
        for name, of_all in mimic_folder.hospital().items():
            tables[name] = [row for row in of_all if row.get("subject_id") != 12]
        tables["icu/d_items"] = [mimic_folder.item(220052, "Arterial mean")]
        rows = []
        for stay, (subject, admitted) in CoveredFolder.stays.items():
            start = admitted + dt.timedelta(hours=1)
            stored = str(admitted + dt.timedelta(hours=hours if stay == 25 else 2))
            if table == "icu/inputevents":
                row = mimic_folder.infusion(subject, stay, str(start), stored, item, 5, "mL/hour")
                # Saved before its end: it became known when it was saved.
                row |= {"storetime": stored, "endtime": "2151-01-01 00:00:00"}
            else:
                row = mimic_folder.measurement(subject, stay, str(start), item, 5, "u", stored)
            rows.append(row)
        tables[table] = [*tables.get(table, []), *rows]
        return tables

    assert code in read_codes(make_tables(hours=24), tmp_path)
    assert code not in read_codes(make_tables(hours=24.01), tmp_path)
