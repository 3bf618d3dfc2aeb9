"""A hospital's own tables as they come: a thousand invented stays with the faults of real
extractions.

Codes are the hospital's own and carry no units. Glucose stands in mg/dL on one ward and in mmol/L
on another, a missing CRP is -999, a ward has two spellings, rows come twice, some local times never
were because the clocks changed, and the notes are Latin-1. A board scored the kidneys of a third of
the patients, and a formula those of all: the formula's score must help to learn the board's.

    python tests/support/messy_hospital.py FOLDER
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

N_STAYS = 1000
MISSING_VALUE = -999
MMOL_PER_MG = 1 / 18.016
SHARE_SCORED = 0.35  # of the patients, the share that the board scored
N_IMAGES = 60

COHORT: dict[str, Any] = {
    "timezone": "Europe/Berlin",
    "features": ["age", "sex", "ward"],
    "audit": ["sex"],
    "tasks": [
        {"name": "death", "problem": "binary", "department": "hospital"},
        {"name": "los", "problem": "regression", "department": "hospital", "unit": "days"},
        {
            "name": "destination",
            "problem": "multiclass",
            "department": "hospital",
            "classes": ["home", "facility", "died"],
        },
        {"name": "phenotype", "problem": "clustering", "classes": 3},
        {"name": "kidney_score", "problem": "regression", "department": "nephrology"},
        {"name": "kidney_score_by_board", "problem": "regression", "department": "nephrology"},
    ],
}

# code -> (centre, spread, weights of the three causes)
_SIGNALS: dict[str, tuple[float, float, tuple[float, float, float]]] = {
    "HF": (84.0, 9.0, (9.0, 0.0, 3.0)),
    "RR_SYS": (124.0, 10.0, (-9.0, 3.0, 0.0)),
    "TEMP": (37.1, 0.4, (0.5, 0.0, 0.0)),
    "KREA": (1.4, 0.06, (0.0, 0.3, 0.0)),
    "HST": (42.0, 3.0, (0.0, 9.0, 0.0)),
    "CRP": (60.0, 12.0, (18.0, 0.0, 0.0)),
    "GLUC": (130.0, 14.0, (10.0, 0.0, 8.0)),
    "BARTHEL": (60.0, 4.0, (0.0, 0.0, -12.0)),
    "SCHMERZ": (4.0, 0.4, (0.0, 0.0, 1.2)),
}
_HOURS = (1.5, 6.0, 11.0, 19.0)
_CLOCKS_FORWARD = dt.datetime(2024, 3, 31, 2, 30)  # an hour that never was in Berlin


def write_messy_hospital(folder: Path, n_stays: int = N_STAYS, seed: int = 0) -> Path:
    """Write the tables and ``cohort.yaml`` into a new folder; the same seed gives the same
    bytes.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(n_stays, 3))
    admissions = _draw_admissions(n_stays, rng)
    los_days = np.exp(1.6 + 0.35 * causes[:, 0] + rng.normal(0, 0.25, n_stays)) + 1.2
    _write_samples(folder, causes, admissions, los_days, rng)
    _write_events(folder, causes, admissions, rng)
    _write_notes(folder, causes, admissions)
    _write_images(folder, causes, admissions, rng)
    _write_labels(folder, causes, los_days, rng)
    (folder / "cohort.yaml").write_text(yaml.safe_dump(COHORT, sort_keys=False))
    return folder


def _draw_admissions(n_stays: int, rng: np.random.Generator) -> list[dt.datetime]:
    minutes = rng.integers(0, 360 * 24 * 60, n_stays)
    admissions = [dt.datetime(2024, 1, 2) + dt.timedelta(minutes=int(m)) for m in minutes]
    # An admission in the hour that the clocks skip would cost the stay, which is not what is tried
    # here.
    return [time + dt.timedelta(hours=1) if _is_skipped(time) else time for time in admissions]


def _is_skipped(time: dt.datetime) -> bool:
    return time.date() == _CLOCKS_FORWARD.date() and time.hour == 2


def _stay(row: int) -> str:
    return f"A{10_000 + row}"


def _write_samples(
    folder: Path,
    causes: np.ndarray,
    admissions: Sequence[dt.datetime],
    los_days: np.ndarray,
    rng: np.random.Generator,
) -> None:
    wards = ["Surgery", "Medicine", "surgery "]
    rows = []
    for i, admitted in enumerate(admissions):
        discharged = (admitted + dt.timedelta(days=float(los_days[i]))).replace(microsecond=0)
        if _is_skipped(discharged):
            discharged += dt.timedelta(hours=1)
        ward = wards[rng.choice(3, p=[0.4, 0.5, 0.1])]
        age = int(np.clip(64 + 8 * causes[i, 2] + rng.normal(0, 10), 18, 99))
        rows.append([_stay(i), f"P{i % 900}", admitted, discharged, age, "FM"[i % 2], ward])
    header = ["stay_id", "subject_id", "admit_time", "discharge_time", "age", "sex", "ward"]
    _write_csv(folder / "samples.csv", header, rows)


def _write_events(
    folder: Path,
    causes: np.ndarray,
    admissions: Sequence[dt.datetime],
    rng: np.random.Generator,
) -> None:
    rows: list[list[Any]] = []
    for i, admitted in enumerate(admissions):
        in_mmol = i % 3 == 0
        for hours in _HOURS:
            for code, (centre, spread, weights) in _SIGNALS.items():
                value = centre + float(np.dot(weights, causes[i])) + rng.normal(0, spread)
                if code == "GLUC" and in_mmol:
                    value *= MMOL_PER_MG
                if code == "CRP" and rng.random() < 0.04:
                    value = MISSING_VALUE
                taken = (admitted + dt.timedelta(hours=hours)).replace(microsecond=0)
                filed = taken + dt.timedelta(minutes=70)
                rows.append([_stay(i), taken, filed, code, round(value, 2), ""])
    rows += rows[:200]  # exported twice
    for i in range(25):
        rows.append([_stay(i), _CLOCKS_FORWARD, _CLOCKS_FORWARD, "HF", 80, ""])
    header = ["stay_id", "time", "available_time", "code", "value", "unit"]
    _write_csv(folder / "events.csv.gz", header, rows)


def _write_notes(folder: Path, causes: np.ndarray, admissions: Sequence[dt.datetime]) -> None:
    rows = []
    for i in range(0, len(admissions), 8):
        state = (
            "Zustand verschlechtert, Übelkeit"
            if causes[i, 0] > 0
            else "stabil, geht es größtenteils gut"
        )
        walks = "mobil am Gang" if causes[i, 2] < 0 else "bettlägerig"
        filed = admissions[i] + dt.timedelta(hours=8)
        rows.append([_stay(i), f"N{i}", filed, "progress", f"Patient {state}; {walks}."])
    header = ["stay_id", "note_id", "time", "kind", "text"]
    _write_csv(folder / "notes.csv", header, rows, encoding="latin-1")


def _write_images(
    folder: Path,
    causes: np.ndarray,
    admissions: Sequence[dt.datetime],
    rng: np.random.Generator,
) -> None:
    (folder / "films").mkdir()
    rows = []
    for i in range(N_IMAGES):
        pixels = (
            rng.normal(110 + 25 * causes[i, 0], 20, size=(48, 48)).clip(0, 255).astype(np.uint8)
        )
        file = folder / "films" / f"{_stay(i)}.png"
        Image.fromarray(pixels).save(file)
        taken = admissions[i] + dt.timedelta(hours=3)
        rows.append([_stay(i), f"F{i}", taken, "PA", f"films/{file.name}"])
    broken = folder / "films" / f"{_stay(0)}.png"
    broken.write_bytes(broken.read_bytes()[:100])
    _write_csv(folder / "images.csv", ["stay_id", "image_id", "time", "view", "path"], rows)


def _write_labels(
    folder: Path, causes: np.ndarray, los_days: np.ndarray, rng: np.random.Generator
) -> None:
    n_stays = len(causes)
    died = causes[:, 0] + rng.normal(0, 0.5, n_stays) > 1.2
    home = causes[:, 2] + rng.normal(0, 0.5, n_stays) < 0.3
    destination = np.where(died, "died", np.where(home, "home", "facility"))
    # An interaction of two causes: what a few labels cannot teach, and many can.
    kidney = 10 + 2 * np.tanh(4 * causes[:, 1]) * np.tanh(4 * causes[:, 2])
    scored = rng.random(n_stays) < SHARE_SCORED
    everyone = np.ones(n_stays, dtype=bool)
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "death": (died.astype(int), everyone),
        "los": (los_days.round(2), everyone),
        "destination": (destination, everyone),
        "kidney_score": (_measure(kidney, 0.4, rng), everyone),
        "kidney_score_by_board": (_measure(kidney, 0.4, rng), scored),
    }
    rows = []
    for task, (values, mask) in columns.items():
        rows += [[_stay(i), task, values[i]] for i in np.flatnonzero(mask).tolist()]
    rows += rows[:30]  # exported twice
    _write_csv(folder / "labels.csv", ["sample_id", "task", "value"], rows)


def _measure(truth: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    return (truth + rng.normal(0, error, len(truth))).round(2)


def _write_csv(
    file: Path, header: list[str], rows: Iterable[Sequence[Any]], encoding: str = "utf-8"
) -> None:
    if file.suffix == ".gz":
        with gzip.open(file, "wt", newline="", encoding=encoding) as stream:
            csv.writer(stream).writerows([header, *rows])
        return
    with file.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream).writerows([header, *rows])


if __name__ == "__main__":
    print(write_messy_hospital(Path(sys.argv[1])))
