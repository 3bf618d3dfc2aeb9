"""A synthetic hospital in the layout of MIMIC-IV, MIMIC-IV-Note and MIMIC-CXR-JPG. No real patient
is in it.

It is for showing, testing and timing: what a model finds in it is what was put into it, and says
nothing of medicine.

The story, told by the modules in turn
- `story`: nine chronic factors of a patient (metabolic, vascular, cardiac, renal, pulmonary, liver, substance, cancer,
  mood) and six acute ones of a stay (infection, congestion, breathing, kidney, bleeding, brain) decide, by chance, who
  has which of the 40 diagnoses. Diagnoses lead to others (diabetes to kidney disease, sepsis to respiratory failure,
  cirrhosis to a low platelet count), so that rare ones share their causes with frequent ones. Together they make a
  stay severe: that brings patients to intensive care (two in three), lengthens the stay and kills one in thirteen.
- `measurements`: vital signs of the first 36 hours of intensive care, blood draws from the emergency room on, lines and
  procedures. `images`: chest films of three stays in five. `notes`: radiology reports of seven stays in eight, and
  discharge summaries. `codes`: the diagnoses as billed, in ICD-9 or ICD-10 by the year of the stay.
- No record decides a diagnosis. Each modality knows what the others do not: films the effusion and the size of the
  heart, notes the past (smoking, gout, joints, mood), blood the kidneys, liver and marrow, vital signs the acute state.
- Records are known later than they are taken. Discharge summaries name every diagnosis; they are written when the stay
  is over, so a prediction on the first day that is as good as they are has seen the future.
- The sick have more of everything: the healthier a patient, the likelier that notes or films are missing.
- Race and language have no effect on anything: a difference found there is chance or a fault.
- A few dozen rows are wrong on purpose: `wrong_rows.csv` names each. Hospitals below 150 stays have none.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from m3h_pipeline.demo import tables as t
from m3h_pipeline.demo.codes import diagnoses, dictionary
from m3h_pipeline.demo.images import Findings, as_jpeg, draw_findings, draw_images
from m3h_pipeline.demo.measurements import (
    chart_items,
    lab_items,
    lab_results,
    procedures,
    vital_signs,
)
from m3h_pipeline.demo.notes import write_notes
from m3h_pipeline.demo.story import Stays, draw_stays, scattered
from m3h_pipeline.demo.wrong_rows import README, plant, spoil
from m3h_pipeline.errors import InputError

__all__ = ["write_demo_hospital"]

# Stays that are drawn and written at a time: this bounds the memory, whatever the size of the
# hospital.
_CHUNK = 250
# Fewer stays have no wrong rows, since one would be more than any bound allows.
_SMALLEST_WITH_WRONG_ROWS = 150
_PICTURES_AT_A_TIME = 8


def write_demo_hospital(
    to: Path,
    stays: int = 1500,
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
    tables["icu/d_items"].write(chart_items())
    tables["hosp/d_labitems"].write(lab_items())
    # Rows so far: ids count on from them.
    written: Counter[str] = Counter()
    icd_codes: set[str] = set()
    wrong = pl.DataFrame(schema=["file", "row", "kind", "path"])
    for chunk, first in enumerate(range(0, stays, _CHUNK)):
        # Each part of a chunk has its own generator, so that a change in one leaves the others as
        # they are.
        rngs = [np.random.default_rng([seed, chunk, part]) for part in range(8)]
        group = draw_stays(
            rngs[0], min(_CHUNK, stays - first), first, written["hosp/patients"], seed
        )
        findings = draw_findings(rngs[1], group)
        studies = t.films(rngs[2], group, written["studies"], seed)
        rows = _rows(
            rngs[3], rngs[4], group, findings, studies, first, written["hosp/labevents"], seed
        )
        pictures = t.pictures(rngs[5], group, studies)
        rows[t.PICTURES] = pictures
        if chunk == 0 and stays >= _SMALLEST_WITH_WRONG_ROWS:
            wrong = plant(rngs[6], rows, group)
        for name, frame in rows.items():
            tables[name].write(frame)
            written[name] += len(frame)
        written["studies"] += len(studies)
        icd_codes |= set(rows["hosp/diagnoses_icd"]["icd_code"])
        _write_pictures(rngs[7], to, findings, pictures)
        on_progress(first + len(group), stays)
    tables["hosp/d_icd_diagnoses"].write(dictionary().filter(pl.col("icd_code").is_in(icd_codes)))
    for table in tables.values():
        table.close()
    spoil(to, wrong)
    wrong.drop("path").write_csv(to / "wrong_rows.csv")
    (to / "README.txt").write_text(README)


def _rows(
    rng: np.random.Generator, rng_of_notes: np.random.Generator, stays: Stays, findings: Findings,
    studies: pl.DataFrame, first_stay: int, first_lab: int, seed: int,
) -> dict[str, pl.DataFrame]:  # fmt: skip
    """Rows of each table that grows with the stays, but for the pictures."""
    icu_stay_id = 30_000_000 + scattered(first_stay + np.arange(len(stays)), seed)
    radiology, discharge = write_notes(rng_of_notes, stays, findings, studies)
    return {
        "hosp/patients": t.patients(stays),
        "hosp/admissions": t.admissions(rng, stays),
        "hosp/diagnoses_icd": diagnoses(rng, stays),
        "hosp/labevents": lab_results(rng, stays, first_lab),
        "icu/icustays": t.icu_stays(rng, stays, icu_stay_id),
        "icu/chartevents": vital_signs(rng, stays, icu_stay_id),
        "icu/procedureevents": procedures(rng, stays, icu_stay_id),
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
            file.write_bytes(as_jpeg(picture))
