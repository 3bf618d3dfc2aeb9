"""Writing the hospital: its stays are drawn and written some at a time, each part by its module."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from m3h_pipeline.demo import tables as t
from m3h_pipeline.demo.codes import draw_diagnoses, list_codes
from m3h_pipeline.demo.drugs import draw_prescriptions, draw_services
from m3h_pipeline.demo.images import Findings, draw_findings, draw_images, encode_jpeg
from m3h_pipeline.demo.lab_items import list_lab_items
from m3h_pipeline.demo.lab_results import draw_lab_results
from m3h_pipeline.demo.notes import write_notes
from m3h_pipeline.demo.procedures import draw_procedures
from m3h_pipeline.demo.stays import Stays, scatter_ids
from m3h_pipeline.demo.story import draw_stays
from m3h_pipeline.demo.vital_signs import draw_vital_signs
from m3h_pipeline.demo.wrong_rows import README, plant_wrong_rows, spoil_pictures
from m3h_pipeline.errors import InputError

# Stays that are drawn and written at a time: this bounds the memory, whatever the size of the
# hospital.
_CHUNK = 250
# Fewer stays have no wrong rows, since one would be more than any bound allows.
_SMALLEST_WITH_WRONG_ROWS = 150
_PICTURES_AT_A_TIME = 8


def write_demo_hospital(
    to: Path,
    stays: int = 1000,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a hospital of ``stays`` stays into the folder ``to``; the same size and seed give the
    same bytes.

    Written under a temporary name beside ``to`` and renamed when whole; what an earlier call left
    there is replaced. ``on_progress(done, stays)`` is called now and then. Raises `InputError`
    where size or seed can't be.
    """
    if stays < 1:
        raise InputError(f"a hospital of {stays} stays can't be: ask for 1 or more")
    if seed < 0:
        raise InputError(f"seed {seed} can't be: it must not be negative")
    to = Path(to)
    work = to.with_name(f".{to.name}.writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _write(work, stays, seed, on_progress or (lambda done, total: None))
    to.mkdir(exist_ok=True)
    # What makes the folder a hospital comes last.
    for part in sorted(work.iterdir(), key=lambda path: path.name == "hosp"):
        if (to / part.name).is_dir():
            shutil.rmtree(to / part.name)
        part.replace(to / part.name)
    work.rmdir()


def _write(to: Path, stays: int, seed: int, on_progress: Callable[[int, int], None]) -> None:
    tables = {name: t.Table(to / f"{name}.csv.gz", header) for name, header in t.HEADERS.items()}
    tables["icu/d_items"].write(t.list_chart_items())
    tables["hosp/d_labitems"].write(list_lab_items())
    # Rows so far: ids count on from them.
    written: Counter[str] = Counter()
    icd_codes: set[str] = set()
    wrong = pl.DataFrame(schema=["file", "row", "kind", "path"])
    for chunk, first in enumerate(range(0, stays, _CHUNK)):
        # Each part of a chunk has its own generator, so that a change in one leaves the others as
        # they are.
        rngs = [np.random.default_rng([seed, chunk, part]) for part in range(9)]
        group = draw_stays(
            rngs[0], min(_CHUNK, stays - first), first, written["hosp/patients"], seed
        )
        findings = draw_findings(rngs[1], group)
        studies = t.draw_studies(rngs[2], group, written["studies"], seed)
        rows = _rows(
            rngs[3], rngs[4], group, findings, studies, first, written["hosp/labevents"], seed
        )
        pictures = t.draw_picture_rows(rngs[5], group, studies)
        rows[t.PICTURES] = pictures
        rows["hosp/prescriptions"] = draw_prescriptions(rngs[8], group)
        rows["hosp/services"] = draw_services(rngs[8], group)
        if chunk == 0 and stays >= _SMALLEST_WITH_WRONG_ROWS:
            wrong = plant_wrong_rows(rngs[6], rows, group)
        for name, frame in rows.items():
            tables[name].write(frame)
            written[name] += len(frame)
        written["studies"] += len(studies)
        icd_codes |= set(rows["hosp/diagnoses_icd"]["icd_code"])
        _write_pictures(rngs[7], to, findings, pictures)
        on_progress(first + len(group), stays)
    tables["hosp/d_icd_diagnoses"].write(list_codes().filter(pl.col("icd_code").is_in(icd_codes)))
    for table in tables.values():
        table.close()
    spoil_pictures(to, wrong)
    wrong.drop("path").write_csv(to / "wrong_rows.csv")
    (to / "README.txt").write_text(README)


def _rows(
    rng: np.random.Generator,
    rng_of_notes: np.random.Generator,
    stays: Stays,
    findings: Findings,
    studies: pl.DataFrame,
    first_stay: int,
    first_lab: int,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """Rows of each table that grows with the stays, but for the pictures."""
    icu_stay_id = 30_000_000 + scatter_ids(first_stay + np.arange(len(stays)), seed)
    radiology, discharge = write_notes(rng_of_notes, stays, findings, studies)
    return {
        "hosp/patients": t.make_patients(stays),
        "hosp/admissions": t.draw_admissions(rng, stays),
        "hosp/diagnoses_icd": draw_diagnoses(rng, stays),
        "hosp/labevents": draw_lab_results(rng, stays, first_lab),
        "icu/icustays": t.draw_icu_stays(rng, stays, icu_stay_id),
        "icu/chartevents": draw_vital_signs(rng, stays, icu_stay_id),
        "icu/procedureevents": draw_procedures(rng, stays, icu_stay_id),
        "note/radiology": radiology,
        "note/discharge": discharge,
    }


def _write_pictures(
    rng: np.random.Generator, to: Path, findings: Findings, pictures: pl.DataFrame
) -> None:
    for some in pictures.iter_slices(_PICTURES_AT_A_TIME):
        drawn = draw_images(rng, findings, some["stay"].to_numpy(), some["ViewPosition"].to_list())
        for path, picture in zip(some["path"], drawn, strict=True):
            file = to / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_jpeg(picture))
