"""From files to inputs, for every source: nothing known after the prediction time and no order of
rows changes a byte.

To add a source, add a `Case`: what a hospital of its own holds, what may come later, and how it is
written.
"""

from __future__ import annotations

import copy
import datetime as dt
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import haim_folder
import mimic_folder
import pytest
import tables_folder
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from meds_folder import as_meds
from passage import Passage

from m3h_pipeline.config import open_source
from m3h_pipeline.sources import Settings

Tables = dict[str, list[dict[str, Any]]]

# A passage takes a second: to shrink a failure would take many minutes.
QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


class Case(ABC):
    """A source with hospitals to draw; ``examples``: how many, since some files are large."""

    source: str
    examples: int
    settings = Settings()

    @abstractmethod
    def hospital(self, draw: Any) -> Tables:
        """The rows of each file."""

    @abstractmethod
    def later(self, draw: Any, tables: Tables) -> Tables:
        """The same hospital after more was recorded, changed or deleted, all of it known after the
        prediction time.
        """

    @abstractmethod
    def write(self, folder: Path, tables: Tables) -> Path:
        """Write the files."""

    def inputs(self, tables: Tables) -> dict[str, bytes]:
        """Bytes of the input files."""
        with tempfile.TemporaryDirectory() as folder:
            root = self.write(Path(folder, "hospital"), tables)
            source = open_source(self.source, root)
            files = Passage(source, Path(folder, "out"), self.settings).inputs()
            # Where the files lie is no matter of time.
            return {name: content.replace(folder.encode(), b"") for name, content in files.items()}

    def __repr__(self) -> str:
        return self.source


class OwnTables(Case):
    """Three stays, admitted at noon in Berlin, predicted a day later, with repeated keys and wrong
    rows among them.
    """

    source = "tables"
    examples = 8
    admitted = dt.datetime(2024, 1, 10, 12)
    predicted = admitted + dt.timedelta(hours=24)

    def hospital(self, draw: Any) -> Tables:
        tables = tables_folder.hospital(3)
        for row in tables["samples"]:
            row |= {
                "admit_time": self.admitted,
                "discharge_time": self.admitted + dt.timedelta(days=4),
            }
        for table in ("events", "codes", "notes"):
            # One that can be read: a column without any is refused as a whole.
            first = next(iter(tables[table]), {"kind": "drug", "code": "a", "value": 1}) | {
                "stay_id": "s1",
                "time": str(self.admitted),
                "available_time": str(self.admitted),
            }
            first |= {"note_id": "n0"} if table == "notes" else {}
            tables[table] = [first, *draw(st.lists(self.record(table), max_size=10))]
        tables["embeddings"] = [
            {"sample_id": f"s{i}", "modality": "vision", "vector": f"[{i}, 0.1]"} for i in (1, 2, 3)
        ]
        return tables

    def record(self, table: str) -> st.SearchStrategy[dict[str, Any]]:
        """A row; few stays and keys, so that many of a hospital's share one."""
        hours = st.sampled_from([1, 12, 23, 23.9, 24, 24.1, 30, 47])
        moments = hours.map(lambda hour: str(self.admitted + dt.timedelta(hours=hour)))
        odd = st.sampled_from(["2024-01-10", "2024-01-11", "2024-01-12", "soon"])
        stays = st.sampled_from(["s1"] * 5 + ["s2", "nobody"])
        times = st.one_of(*[moments] * 5, odd)
        row: dict[str, Any] = {
            "stay_id": stays,
            "time": times,
            "available_time": st.one_of(st.none(), *[times] * 3),
        }
        if table == "events":
            row |= {
                "code": st.sampled_from(["heart_rate", "glucose", "own"]),
                "value": st.sampled_from([1, 80, 90.5, 9999, "x", None]),
                "unit": st.sampled_from(["bpm", "mmol/L", "mg/dL", ""]),
            }
        elif table == "codes":
            row |= {
                "kind": st.sampled_from(["drug", "service"]),
                "code": st.sampled_from(["a/b", "a/c", "b"]),
                "value": st.sampled_from([1, 2.5, "x", None]),
            }
        else:
            row |= {
                "note_id": st.sampled_from(["n1", "n2"]),
                "kind": st.sampled_from(["radiology", "nursing"]),
                "text": st.sampled_from(["clear", "worse", "discharged"]),
            }
        return st.fixed_dictionaries(row)

    def is_late(self, row: dict[str, Any]) -> bool:
        def moment(text: str | None, end_of_day: bool) -> dt.datetime | None:
            try:
                moment = dt.datetime.fromisoformat(text or "")
            except ValueError:
                return None
            return moment + dt.timedelta(days=1) if end_of_day and len(text or "") == 10 else moment

        available = moment(row["available_time"], True) or moment(row["time"], True)
        times = (available, moment(row["time"], False))
        return any(time is not None and time > self.predicted for time in times)

    def later(self, draw: Any, tables: Tables) -> Tables:
        after = copy.deepcopy(tables)
        for table in ("events", "codes", "notes"):
            late = self.record(table).filter(self.is_late)
            after[table] = [draw(late) if self.is_late(row) else row for row in after[table]]
            after[table] = [
                row for row in after[table] if not self.is_late(row) or draw(st.booleans())
            ]
            after[table] += draw(st.lists(late, max_size=6))
            # Another version of a record, under its key, that was known later.
            available = str(self.predicted + dt.timedelta(minutes=draw(st.integers(1, 99))))
            times = {"time": str(self.admitted), "available_time": available}
            for row in tables[table]:
                if draw(st.booleans()):
                    key = {name: row[name] for name in ("stay_id", "note_id") if name in row}
                    after[table].append(draw(late) | key | times)
        for row in after["samples"]:
            row["discharge_time"] = self.predicted + dt.timedelta(hours=draw(st.integers(0, 900)))
        for row in after["labels"]:
            row["value"] = (
                draw(st.sampled_from([0, 1])) if row["task"] != "los" else draw(st.integers(1, 9))
            )
        return after

    def write(self, folder: Path, tables: Tables) -> Path:
        return tables_folder.write(folder, tables)


class HaimFile(Case):
    """Images of three ICU stays, some twice; what comes later is the outcome: all else of a row is
    its image's time.
    """

    source = "haim"
    examples = 2

    def hospital(self, draw: Any) -> Tables:
        images = st.tuples(
            st.sampled_from([1, 2, 3]), st.sampled_from([0, 1]), st.sampled_from([0, 9])
        )
        drawn = draw(st.lists(images, min_size=1, max_size=6))
        # The same image with other numbers, or under another ICU stay.
        return {
            "images": [
                haim_folder.row(stay, image, seed, haim_id=stay + seed)
                for stay, image, seed in drawn
            ]
        }

    def later(self, draw: Any, tables: Tables) -> Tables:
        after = copy.deepcopy(tables)
        for row in after["images"]:
            row |= {
                "img_length_of_stay": draw(st.floats(0, 999)),
                "death_status": draw(st.sampled_from([0, 1])),
            }
            row |= {
                "Edema": draw(st.sampled_from(["1.0", "0.0", "-1.0", ""])),
                "discharge_location": "DIED",
            }
            row |= {f"n_rad_{i}": draw(st.floats(-1, 1)) for i in range(3)}
        return after

    def write(self, folder: Path, tables: Tables) -> Path:
        return haim_folder.write(folder, tables["images"])


class MimicFolder(Case):
    """A stay predicted a day after its admission at eight, and one that ends in death; notes under
    repeated keys.
    """

    source = "mimic-iv"
    examples = 6
    values: tuple[Any, ...] = (60, 80, 90.5, 9999, "x")
    admitted = dt.datetime(2150, 1, 1, 8)
    predicted = admitted + dt.timedelta(hours=24)

    def hospital(self, draw: Any) -> Tables:
        whole: Tables = mimic_folder.hospital()
        tables: Tables = {}
        for name, rows in whole.items():
            tables[name] = [dict(row) for row in rows if row.get("subject_id") != 12]
        for table in ("icu/chartevents", "hosp/labevents", "note/radiology"):
            # One that is known in time, so that the file has a row.
            first = [row for row in tables[table] if not self.is_late(row)][:1]
            tables[table] = [*first, *draw(st.lists(self.record(table), max_size=8))]
        return tables

    def record(self, table: str) -> st.SearchStrategy[dict[str, Any]]:
        """A row; of a note few keys, so that several share one."""
        hours = st.sampled_from([1, 12, 23, 23.9, 24, 24.1, 30, 47])
        moments = hours.map(lambda hour: str(self.admitted + dt.timedelta(hours=hour)))
        times = {"charttime": moments, "storetime": st.one_of(st.none(), *[moments] * 3)}
        if table == "note/radiology":
            text = st.sampled_from(["clear", "worse", "discharged"])
            note = mimic_folder.note("", 11, 21, "", None, "")
            return st.fixed_dictionaries(
                {
                    **{k: st.just(v) for k, v in note.items()},
                    **times,
                    "note_id": st.sampled_from(["n1", "n2"]),
                    "text": text,
                }
            )
        item, unit = (220045, "bpm") if table == "icu/chartevents" else (50931, "mg/dL")
        row = mimic_folder.measurement(11, 21, "", item, 0, unit)
        drawn = {
            "hadm_id": st.sampled_from([21, 21, None]),
            "valuenum": st.sampled_from(self.values),
        }
        return st.fixed_dictionaries({**{k: st.just(v) for k, v in row.items()}, **times, **drawn})

    def is_late(self, row: dict[str, Any]) -> bool:
        moments = [
            dt.datetime.fromisoformat(row[name])
            for name in ("charttime", "storetime")
            if row.get(name)
        ]
        return max(moments) > self.predicted

    def later(self, draw: Any, tables: Tables) -> Tables:
        after = copy.deepcopy(tables)
        for table in ("icu/chartevents", "hosp/labevents", "note/radiology"):
            late = self.record(table).filter(self.is_late)
            after[table] = [draw(late) if self.is_late(row) else row for row in after[table]]
            after[table] = [
                row for row in after[table] if not self.is_late(row) or draw(st.booleans())
            ]
            after[table] += draw(st.lists(late, max_size=5))
            # Another version of a record, under its key, that was known later.
            stored = str(self.predicted + dt.timedelta(minutes=draw(st.integers(1, 99))))
            times = {"charttime": str(self.admitted), "storetime": stored}
            for row in tables[table]:
                if draw(st.booleans()):
                    key = {name: row[name] for name in ("note_id",) if name in row}
                    after[table].append(row | draw(late) | key | times)
        self.change_outcomes(draw, after)
        return after

    def change_outcomes(self, draw: Any, after: Tables) -> None:
        """What is known at the end of stay 21."""
        for stay in after["hosp/admissions"]:
            if stay["hadm_id"] == 21:
                stay["dischtime"] = str(
                    self.predicted + dt.timedelta(hours=draw(st.integers(1, 700)))
                )
                stay["discharge_location"] = draw(st.sampled_from(["HOME", "REHAB", "HOSPICE"]))
        for row in after["hosp/diagnoses_icd"]:
            row["icd_code"] = draw(st.sampled_from(["4280", "25000", "5849"]))
            row["icd_version"] = 9

    def write(self, folder: Path, tables: Tables) -> Path:
        return mimic_folder.write(folder, tables)


class MimicCodes(MimicFolder):
    """The same with drugs, cultures, units and two earlier stays, of which the codes of the second
    are given after the prediction.
    """

    examples = 4
    discharged = dt.datetime(2149, 12, 28, 8)
    tables = (
        *("hosp/emar", "hosp/prescriptions", "hosp/microbiologyevents", "hosp/omr"),
        *("ed/vitalsign", "ed/pyxis"),
    )

    def hospital(self, draw: Any) -> Tables:
        tables: Tables = mimic_folder.hospital() | mimic_folder.codes()
        tables |= mimic_folder.emergency_department()
        for name, rows in mimic_folder.earlier_stays().items():
            tables[name] = [*tables[name], *rows]
        for stay in tables["hosp/admissions"]:
            if stay["hadm_id"] == 20:
                stay["dischtime"] = str(self.discharged)
        for table in self.tables:
            # One that is known in time, so that the file has a row.
            first = [row for row in tables[table] if not self.is_late(row)][:1]
            tables[table] = [*first, *draw(st.lists(self.record(table), max_size=6))]
        return tables

    def record(self, table: str) -> st.SearchStrategy[dict[str, Any]]:
        hours = st.sampled_from([-300, 1, 12, 23.9, 24, 24.1, 47])
        moments = hours.map(lambda hour: str(self.admitted + dt.timedelta(hours=hour)))
        stored = st.one_of(st.none(), *[moments] * 3)
        drugs = st.sampled_from(["Insulin", "Furosemide"])
        if table == "hosp/emar":
            return st.builds(mimic_folder.given, moments, drugs, stored=stored)
        if table == "hosp/prescriptions":
            return st.builds(mimic_folder.prescription, moments, drugs)
        if table.startswith("ed/"):
            first = mimic_folder.emergency_department()[table][0]
            cells = {"name": drugs} if table == "ed/pyxis" else {"heartrate": st.integers(50, 150)}
            kept = {name: st.just(cell) for name, cell in first.items()}
            return st.fixed_dictionaries({**kept, "charttime": moments, **cells})
        if table == "hosp/omr":
            dates = moments.map(lambda moment: moment[:10])
            values = st.sampled_from(["120/80", "31", "none"])
            return st.builds(mimic_folder.measured, dates, st.just("BMI"), values)
        return st.builds(
            mimic_folder.culture,
            moments,
            stored=stored,
            organism=st.sampled_from([None, "STAPH AUREUS", "YEAST"]),
            drug=st.sampled_from([None, "OXACILLIN", "GENTAMICIN"]),
            result=st.sampled_from(["R", "S"]),
        )

    def is_late(self, row: dict[str, Any]) -> bool:
        if "starttime" in row:
            return dt.datetime.fromisoformat(row["starttime"]) > self.predicted
        if "result_name" in row:
            end = dt.datetime.fromisoformat(row["chartdate"]) + dt.timedelta(days=1)
            return end > self.predicted
        return super().is_late(row)

    def is_taken_late(self, row: dict[str, Any]) -> bool:
        return dt.datetime.fromisoformat(row["charttime"]) > self.predicted

    def is_replaced(self, row: dict[str, Any]) -> bool:
        """Whether nothing of a row was known in time: of a culture, that it was taken."""
        return self.is_taken_late(row) if "org_name" in row else self.is_late(row)

    def cultured(self, draw: Any, row: dict[str, Any]) -> dict[str, Any]:
        """A culture with another result, where that came late."""
        if not self.is_late(row) or self.is_taken_late(row):
            return row
        other = draw(self.record("hosp/microbiologyevents"))
        return row | {name: other[name] for name in ("org_name", "ab_name", "interpretation")}

    def later(self, draw: Any, tables: Tables) -> Tables:
        after = copy.deepcopy(tables)
        for table in self.tables:
            late = self.record(table).filter(self.is_late)
            if table == "hosp/microbiologyevents":
                late = self.record(table).filter(self.is_taken_late)
                after[table] = [self.cultured(draw, row) for row in after[table]]
            after[table] = [draw(late) if self.is_replaced(row) else row for row in after[table]]
            after[table] += draw(st.lists(late, max_size=5))
        # A culture that was taken in time: its result, in a row a drug, came later.
        for row in tables["hosp/microbiologyevents"]:
            if not self.is_taken_late(row) and draw(st.booleans()):
                stored = str(self.predicted + dt.timedelta(minutes=draw(st.integers(1, 99))))
                late = {"storetime": stored, "org_name": "YEAST", "ab_name": "OXACILLIN"}
                after["hosp/microbiologyevents"].append(row | late | {"interpretation": "R"})
        for row in after["hosp/diagnoses_icd"]:
            if row["hadm_id"] != 19:
                row["icd_code"] = draw(st.sampled_from(["4280", "25000", "5849"]))
        for row in after["hosp/procedures_icd"]:
            row["icd_code"] = draw(st.sampled_from(["3961", "3615"]))
        return after


class MedsFolder(MimicFolder):
    """The same hospital as MEDS."""

    source = "meds"
    examples = 3
    values = (60, 80, 90.5, 9999)  # a number is a number in MEDS

    def write(self, folder: Path, tables: Tables) -> Path:
        return as_meds(mimic_folder.write(folder / "mimic", tables), folder / "meds", shards=1)


CASES = [OwnTables(), HaimFile(), MimicFolder(), MimicCodes(), MedsFolder()]


@pytest.mark.slow(8)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_neither_the_future_nor_the_order_of_rows_changes_a_byte(case):
    @settings(QUICK, max_examples=case.examples)
    @given(data=st.data())
    def holds(data):
        before = case.hospital(data.draw)
        after = case.later(data.draw, before)
        after = {name: data.draw(st.permutations(rows)) for name, rows in after.items()}
        assert case.inputs(after) == case.inputs(before)

    holds()


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_cases_can_fail(case):
    """A change of what was known in time is seen, so that the test above can fail."""

    @settings(QUICK, max_examples=1)
    @given(data=st.data())
    def differs(data):
        before = case.hospital(data.draw)
        changed = copy.deepcopy(before)
        if case.source == "tables":
            changed["events"].append(
                tables_folder.event("s1", "2024-01-10 13:00:00", "own", 77, "")
            )
        elif isinstance(case, MimicFolder):
            changed["icu/chartevents"].append(
                mimic_folder.measurement(11, 21, "2150-01-01 13:00:00", 220045, 77, "bpm")
            )
        else:
            changed["images"][0] |= {f"vd_{i}": 55 for i in range(5)}
            changed["images"] = changed["images"][:1]
            before["images"] = before["images"][:1]
        assert case.inputs(changed) != case.inputs(before)

    differs()
