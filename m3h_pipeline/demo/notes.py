"""Radiology reports and discharge summaries, in the wording of hospitals.

A report's indication tells some of what is known of the patient. Its findings tell what the study
shows, as far as the radiologist saw it. A discharge summary names all diagnoses: it is written when
the stay ends, so nothing that predicts on the first day may see it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from m3h_pipeline.demo.diseases import DISEASES, DRIVERS
from m3h_pipeline.demo.history import draw_complaints, draw_history
from m3h_pipeline.demo.images import SITES, Findings
from m3h_pipeline.demo.randomness import RandomNumbers
from m3h_pipeline.demo.stays import Array, Stays, logistic, to_times
from m3h_pipeline.demo.studies import CHEST_SENTENCES, STUDIES

_ENDINGS = {
    "HOME": "The patient improved and was discharged home.",
    "HOME HEALTH CARE": "Discharged home with services.",
    "DIED": "The patient passed away with family at the bedside.",
}

_QUESTIONS = (
    "Please evaluate.",
    "Acute process?",
    "Interval change?",
    "r/o acute pathology",
    "Assess for cause.",
)

_COMPARISONS = ("None.", "Prior study of ___.", "___", "No prior available.")

_COLUMN = {name: k for k, name in enumerate(DRIVERS)}


def write_notes(
    rng: np.random.Generator, stays: Stays, findings: Findings, films: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of radiology and of discharge; each of the chest ``films`` of a stay that has notes has
    its report.
    """
    writer = _Writer(rng, stays, findings)
    has_notes = rng.random(len(stays)) < logistic(2.1 + 0.5 * stays.driver("severity"))
    reported = np.zeros(len(stays), dtype=int)
    for stay, time in zip(
        films["stay"], films["time"].to_numpy().astype("datetime64[s]"), strict=True
    ):
        if has_notes[stay]:
            writer.add_chest_report(stay, time)
            reported[stay] += 1
    for stay, hours in zip(np.flatnonzero(has_notes), stays.hours[has_notes], strict=True):
        for _ in range(int(reported[stay] == 0) + writer.draw.happens(0.55)):
            writer.add_study_report(stay, -1.0 + 16 * writer.draw.uniform())
        if hours > 36 and writer.draw.happens(0.3):
            writer.add_study_report(stay, 25 + (hours - 26) * writer.draw.uniform())
        if writer.draw.happens(0.95):
            writer.add_discharge_summary(stay)
    return writer.make_radiology_rows(), writer.make_discharge_rows()


class _Writer:
    def __init__(self, rng: np.random.Generator, stays: Stays, findings: Findings) -> None:
        self.draw = RandomNumbers(rng)
        self._stays = stays
        self._x = stays.x
        self._findings = findings
        self._histories = [draw_history(self.draw, row, stays, k) for k, row in enumerate(stays.x)]
        self._complaints = draw_complaints(rng, stays)
        chances = np.column_stack(
            [base + stays.score(causes) for base, causes, _ in STUDIES.values()]
        )
        self._orders = np.exp(chances)
        self._radiology: list[tuple[int, Any, Any, str]] = []
        self._discharge: list[tuple[int, Any, Any, str]] = []

    def add_chest_report(self, stay: int, time: Any) -> None:
        findings = self._findings
        draw = self.draw
        effusion = findings.effusion[stay]
        is_present = {
            "heart": findings.heart[stay] > 0.55,
            "effusion": effusion.max() > 0.3,
            "oedema": findings.oedema[stay] > 0.3,
            "opacity": findings.opacity[stay] > 0.38,
            "inflation": findings.inflation[stay] > 0.75,
            "nodules": findings.nodules[stay] > 0,
            "aorta": findings.aorta[stay] > 1,
            "band": findings.band[stay].max() > 0.5,
            "tube": findings.tube[stay],
            "pacemaker": findings.pacemaker[stay],
            "wires": findings.wires[stay],
            "port": findings.port[stay],
            "line": findings.line[stay],
        }
        words = {"side": _name_side(effusion), "site": SITES[findings.opacity_site[stay]]}
        lines = []
        for name, (present, absent) in CHEST_SENTENCES.items():
            # A part is overlooked, and now and then something is seen that is not there.
            if draw.happens(0.7 if is_present[name] else 0.03):
                lines.append(_capitalize(draw.pick(present).format(**words)))
            elif absent and not is_present[name] and draw.happens(0.35):
                lines.append(draw.pick(absent))
        name = draw.pick(("CHEST (PORTABLE AP)", "CHEST (PA AND LAT)", "CHEST RADIOGRAPH"))
        self._add_report(stay, time, name, lines)

    def add_study_report(self, stay: int, hour: float) -> None:
        draw = self.draw
        orders = self._orders[stay]
        place = draw.uniform() * orders.sum()
        name = list(STUDIES)[int(np.searchsorted(np.cumsum(orders), place))]
        lines = []
        for causes, base, present, absent in STUDIES[name][2]:
            score = base + sum(
                weight * self._x[stay, _COLUMN[cause]] for cause, weight in causes.items()
            )
            if draw.happens(1 / (1 + np.exp(-score))):
                lines.append(draw.pick(present))
            elif absent and draw.happens(0.7):
                lines.append(draw.pick(absent))
        self._add_report(stay, self._stays.admit[stay] + _to_seconds(hour), name, lines)

    def add_discharge_summary(self, stay: int) -> None:
        stays = self._stays
        draw = self.draw
        names = [name.replace("_", " ") for k, name in enumerate(DISEASES) if stays.coded[stay, k]]
        place = stays.place[stay]
        ending = _ENDINGS.get(place, "Discharged for further care.")
        days = int(stays.hours[stay] // 24)
        complaint = self._describe_complaint(stay)
        person = self._describe_person(stay)
        history = self._describe_history(stay)
        presented_with = self._describe_complaint(stay)
        treated_for = ", ".join(names[:6]) or "observation"
        sections = (
            "Name: ___    Unit No: ___",
            "Admission Date: ___    Discharge Date: ___",
            f"Chief Complaint:\n{complaint}",
            "History of Present Illness:\n"
            f"{person} with {history} who presented with {presented_with}.",
            "Brief Hospital Course:\n"
            f"The patient was treated for {treated_for} over {days} days. {ending}",
            f"Discharge Disposition:\n{(place or 'unknown').capitalize()}",
            "Discharge Diagnosis:\n" + "\n".join(name.capitalize() for name in names),
        )
        text = "\n\n".join(sections) + "\n"
        # The summary bears the day of discharge; it is signed days later.
        day = stays.discharge[stay].astype("datetime64[D]").astype("datetime64[s]")
        signed = stays.discharge[stay] + _to_seconds(2 + 120 * draw.uniform())
        self._discharge.append((stay, day, signed, text))

    def _add_report(self, stay: int, time: Any, name: str, lines: list[str]) -> None:
        draw = self.draw
        # Some indications tell the complaint alone.
        history = f" with {self._describe_history(stay)}," if draw.happens(0.85) else ""
        findings = " ".join(lines) or "Unremarkable study."
        person = self._describe_person(stay)
        complaint = self._describe_complaint(stay)
        indication = f"{person}{history} presenting with {complaint}. // {draw.pick(_QUESTIONS)}"
        comparison = draw.pick(_COMPARISONS)
        impression = draw.pick(lines) if lines else "No acute process."
        sections = (
            f"EXAMINATION: {name}",
            f"INDICATION: {indication}",
            f"COMPARISON: {comparison}",
            f"FINDINGS: {findings}",
            f"IMPRESSION: {impression}",
        )
        text = "\n\n".join(sections) + "\n"
        stored = time + _to_seconds(0.5 + 5 * draw.uniform() ** 2)
        self._radiology.append((stay, time, stored, text))

    def _describe_person(self, stay: int) -> str:
        is_male = self._stays.is_male[self._stays.patient[stay]]
        return f"___ year old {'man' if is_male else 'woman'}"

    def _describe_complaint(self, stay: int) -> str:
        return self.draw.pick((" and ", ", ")).join(self._complaints[stay])

    def _describe_history(self, stay: int) -> str:
        """Each report repeats most of what is known."""
        items = [item for item in self._histories[stay] if self.draw.happens(0.8)]
        return ", ".join(items) or "no significant history"

    def make_radiology_rows(self) -> pl.DataFrame:
        return self._make_rows(self._radiology, "RR")

    def make_discharge_rows(self) -> pl.DataFrame:
        return self._make_rows(self._discharge, "DS")

    def _make_rows(self, notes: list[tuple[int, Any, Any, str]], kind: str) -> pl.DataFrame:
        stays = self._stays
        stay = np.array([note[0] for note in notes], dtype=int)
        frame = pl.DataFrame(
            {
                "subject_id": stays.subject_id[stays.patient[stay]],
                "hadm_id": stays.hadm_id[stay],
                "charttime": to_times(np.array([note[1] for note in notes], dtype="datetime64[s]")),
                "storetime": to_times(np.array([note[2] for note in notes], dtype="datetime64[s]")),
                "text": pl.Series([note[3] for note in notes], dtype=pl.String),
            }
        )
        return (
            frame.sort("subject_id", "charttime")
            .with_columns(
                note_type=pl.lit(kind),
                note_seq=pl.int_range(2, pl.len() + 2).over("subject_id"),
            )
            .with_columns(note_id=pl.format("{}-{}-{}", "subject_id", "note_type", "note_seq"))
        )


def _name_side(effusion: Array) -> str:
    if effusion.min() > 0.25:
        return "bilateral"
    return "right" if effusion[0] > effusion[1] else "left"


def _capitalize(words: str) -> str:
    return words[0].upper() + words[1:]


def _to_seconds(hours: float) -> np.timedelta64:
    return np.timedelta64(int(3600 * hours), "s")
