"""Radiology reports and discharge summaries, in the wording of hospitals.

A report's indication tells some of what is known of the patient: a part of the lasting diseases, in
varying words, now and then a wrong or a denied one, and a complaint that several illnesses share.
Its findings tell what the study shows, as far as the radiologist saw it. A discharge summary names
all diagnoses: it is written when the stay ends, so nothing that predicts on the first day may see
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from m3h_pipeline.demo.images import SITES, Findings
from m3h_pipeline.demo.story import DISEASES, DRIVERS, Array, Stays, as_times, logistic

# What a referring doctor writes of a disease; how often a present one is written at all.
_KNOWN: dict[str, tuple[float, tuple[str, ...]]] = {
    "obesity": (0.35, ("obesity", "morbid obesity", "elevated BMI", "obese habitus")),
    "hypertension": (0.65, ("HTN", "hypertension", "high blood pressure")),
    "hyperlipidemia": (
        0.65,
        ("HLD", "hyperlipidemia", "hypercholesterolemia", "dyslipidemia on a statin"),
    ),
    "diabetes": (0.65, ("DM2", "type 2 diabetes", "diabetes on insulin", "IDDM", "T2DM")),
    "chronic_kidney_disease": (
        0.65,
        ("CKD", "chronic kidney disease", "renal insufficiency", "CKD stage 3", "ESRD on HD"),
    ),
    "ischemic_heart_disease": (
        0.7,
        ("CAD", "coronary artery disease", "prior MI", "CAD s/p stent", "s/p CABG"),
    ),
    "valve_disease": (0.5, ("aortic stenosis", "mitral regurgitation", "known murmur", "s/p AVR")),
    "heart_failure": (
        0.65,
        ("CHF", "heart failure", "cardiomyopathy with reduced EF", "diastolic dysfunction"),
    ),
    "atrial_fibrillation": (
        0.65,
        ("AFib", "atrial fibrillation", "AF on warfarin", "paroxysmal atrial fibrillation"),
    ),
    "peripheral_artery_disease": (
        0.5,
        ("PVD", "peripheral arterial disease", "claudication", "s/p leg bypass"),
    ),
    "copd": (0.7, ("COPD", "emphysema", "chronic obstructive lung disease", "COPD on home O2")),
    "tobacco_use_disorder": (
        0.65,
        ("active smoker", "tobacco abuse", "current smoker, 30 pack years", "smokes 1 ppd"),
    ),
    "alcohol_use_disorder": (
        0.65,
        ("EtOH abuse", "alcohol use disorder", "alcohol withdrawal", "daily alcohol use"),
    ),
    "viral_hepatitis": (0.5, ("hepatitis C", "HCV", "chronic hepatitis B", "untreated HCV")),
    "cirrhosis": (0.5, ("cirrhosis", "end stage liver disease", "ESLD", "cirrhosis with ascites")),
    "depression": (
        0.6,
        ("depression", "major depressive disorder", "depression on an SSRI", "MDD"),
    ),
    "anxiety": (
        0.6,
        ("anxiety", "generalized anxiety disorder", "panic attacks", "anxiety on benzodiazepines"),
    ),
    "hypothyroidism": (
        0.65,
        ("hypothyroidism", "on levothyroxine", "underactive thyroid", "hypothyroid"),
    ),
    "gastroesophageal_reflux": (
        0.6,
        ("GERD", "acid reflux", "reflux disease on a PPI", "gastroesophageal reflux"),
    ),
    "gout": (0.5, ("gout", "gout on allopurinol", "gouty arthritis", "recent gout flare")),
    "osteoarthritis": (
        0.6,
        ("osteoarthritis", "degenerative joint disease", "s/p knee replacement", "OA of the hips"),
    ),
    "prostatic_hyperplasia": (
        0.5,
        ("BPH", "enlarged prostate", "BPH on tamsulosin", "urinary retention from BPH"),
    ),
    "digestive_cancer": (
        0.5,
        ("colon cancer", "pancreatic cancer", "rectal cancer on chemotherapy", "gastric cancer"),
    ),
    "metastatic_cancer": (
        0.45,
        ("metastatic disease", "metastatic cancer", "stage IV malignancy", "known metastases"),
    ),
    "epilepsy": (0.45, ("seizure disorder", "epilepsy", "seizure", "witnessed convulsion")),
    "venous_thromboembolism": (0.25, ("recent DVT", "PE", "leg clot on anticoagulation")),
    "anemia": (0.3, ("anemia", "low hematocrit", "chronic anemia", "falling Hct")),
    "thrombocytopenia": (0.25, ("thrombocytopenia", "low platelets")),
    "coagulopathy": (0.25, ("coagulopathy", "elevated INR", "supratherapeutic INR")),
    "acute_kidney_injury": (0.25, ("AKI", "acute renal failure", "rising creatinine")),
    "hyponatremia": (0.2, ("hyponatremia", "low sodium")),
    "sepsis": (0.3, ("sepsis", "septic shock", "bacteremia", "fever and hypotension")),
    "urinary_tract_infection": (0.35, ("UTI", "urosepsis", "dysuria", "positive urinalysis")),
    "pancreatitis": (
        0.4,
        ("pancreatitis", "elevated lipase", "epigastric pain radiating to the back"),
    ),
    "gastrointestinal_bleeding": (
        0.4,
        ("GI bleed", "melena", "hematemesis", "bright red blood per rectum"),
    ),
    "stroke": (0.35, ("CVA", "acute stroke", "facial droop and weakness", "aphasia")),
    "encephalopathy": (0.35, ("altered mental status", "encephalopathy", "delirium", "confusion")),
    "pneumonia": (0.3, ("pneumonia", "PNA", "cough and fever", "productive cough")),
    "respiratory_failure": (
        0.35,
        ("respiratory failure", "respiratory distress", "hypoxia", "increasing O2 requirement"),
    ),
    "pleural_effusion": (0.2, ("known effusion", "pleural effusion", "s/p thoracentesis")),
}
_WRITTEN_WRONGLY = 0.02
_DENIED = 0.02
# Complaints, and what makes each more likely. Several illnesses share each.
_COMPLAINTS: dict[str, tuple[float, dict[str, float]]] = {
    "dyspnea": (0.0, {"breathing": 0.8, "congestion": 0.6, "pulmonary": 0.4, "cardiac": 0.3}),
    "shortness of breath on exertion": (-0.8, {"congestion": 0.8, "cardiac": 0.5, "breathing": 0.4}),
    "cough": (-0.5, {"breathing": 0.5, "infection": 0.5, "pulmonary": 0.5}),
    "fever": (-0.5, {"infection": 1.0, "cancer": 0.2}),
    "chest pain": (-0.2, {"vascular": 0.6, "mood": 0.4, "metabolic": 0.2, "infection": -0.3}),
    "palpitations": (-1.4, {"cardiac": 0.7, "mood": 0.4}),
    "leg swelling": (-1.2, {"congestion": 0.8, "renal": 0.4, "liver": 0.3}),
    "abdominal pain": (-0.3, {"bleeding": 0.4, "liver": 0.4, "substance": 0.4, "cancer": 0.4}),
    "nausea and vomiting": (-0.9, {"kidney": 0.4, "substance": 0.3, "mood": 0.2, "cancer": 0.3}),
    "abdominal distension": (-1.3, {"liver": 0.8, "cancer": 0.5}),
    "dark stools": (-2.0, {"bleeding": 1.1}),
    "lightheadedness": (-1.0, {"bleeding": 0.6, "cardiac": 0.3, "age": 0.2}),
    "weakness": (-0.5, {"brain": 0.4, "kidney": 0.4, "age": 0.4, "cancer": 0.3}),
    "confusion": (-1.2, {"brain": 1.0, "age": 0.4, "liver": 0.3, "infection": 0.3}),
    "fall": (-0.6, {"age": 0.6, "substance": 0.3, "brain": 0.5}),
    "headache": (-1.3, {"brain": 0.6, "mood": 0.3}),
    "decreased urine output": (-1.6, {"kidney": 0.9, "renal": 0.4}),
    "weight loss": (-1.6, {"cancer": 1.0}),
    "back pain": (-1.2, {"metabolic": 0.3, "mood": 0.3, "cancer": 0.3}),
    "preoperative assessment": (-0.6, {"severity": -0.8}),
}  # fmt: skip
# Ways of life that go with a factor: written where it is high.
_CIRCUMSTANCES = {
    "lives in a nursing home": ("age", 1.2), "wheelchair bound": ("brain", 1.5), "homeless": ("substance", 1.5),
    "on methadone": ("substance", 1.3), "quit smoking last year": ("pulmonary", 0.9),
    "uses inhalers": ("pulmonary", 1.2), "takes aspirin and clopidogrel": ("vascular", 1.1),
    "on furosemide": ("cardiac", 1.0), "fluid overloaded": ("congestion", 1.2),
    "followed by nephrology": ("renal", 1.2), "jaundiced": ("liver", 1.4), "cachectic": ("cancer", 1.3),
    "on chemotherapy": ("cancer", 1.6), "tearful": ("mood", 1.5), "takes sertraline": ("mood", 1.1),
    "poorly controlled sugars": ("metabolic", 1.3), "on broad spectrum antibiotics": ("infection", 1.3),
    "on high flow oxygen": ("breathing", 1.5), "transfused overnight": ("bleeding", 1.4), "oliguric": ("kidney", 1.5),
    "drowsy": ("brain", 1.1), "poor sleep": ("mood", 0.8), "chronic pain": ("mood", 1.0),
    "carotid stenosis": ("vascular", 1.3), "weak pulses": ("vascular", 0.9), "on amiodarone": ("cardiac", 1.4),
}  # fmt: skip


class _Dice:
    """Uniform numbers from one generator, drawn in blocks, since one by one is slow."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers: list[float] = []

    def roll(self) -> float:
        if not self._numbers:
            self._numbers = self._rng.random(4096).tolist()
        return self._numbers.pop()

    def happens(self, chance: float) -> bool:
        return self.roll() < chance

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.roll() * len(choices))]


# What a study shows: (sentences where it is there, sentences where it is not).
_Lines = tuple[tuple[str, ...], tuple[str, ...]]
_CHEST: dict[str, _Lines] = {
    "heart": (
        ("The cardiac silhouette is enlarged.", "Moderate cardiomegaly.", "Heart size is increased."),
        ("Heart size is normal.", "The cardiomediastinal silhouette is within normal limits."),
    ),
    "effusion": (
        ("{side} pleural effusion.", "Blunting of the {side} costophrenic angle, consistent with effusion.",
         "There is layering {side} pleural fluid."),
        ("No pleural effusion.", "The costophrenic angles are sharp.", "No effusion or pneumothorax."),
    ),
    "oedema": (
        ("Mild pulmonary edema.", "There is vascular congestion with interstitial edema.",
         "Perihilar haze suggests edema."),
        ("No pulmonary edema.", "No vascular congestion."),
    ),
    "opacity": (
        ("{site} opacity concerning for pneumonia.", "Consolidation in the {site}.",
         "Patchy airspace opacity, {site}."),
        ("No focal consolidation.", "The lungs are clear.", "No evidence of pneumonia."),
    ),
    "inflation": (
        ("The lungs are hyperinflated.", "Flattened diaphragms suggest obstructive disease.", "Emphysematous changes."),
        ("Lung volumes are normal.", "Lung volumes are low."),
    ),
    "nodules": (
        ("Multiple pulmonary nodules.", "Scattered nodular opacities suspicious for metastases."),
        ("No suspicious nodule.",),
    ),
    "aorta": (
        ("The aorta is calcified.", "Tortuous calcified aorta.", "Atherosclerotic calcification of the aortic arch."),
        (),
    ),
    "band": (
        ("Bibasilar atelectasis.", "Linear atelectasis at the bases."),
        (),
    ),
    "tube": (("Endotracheal tube ends above the carina.",), ()),
    "pacemaker": (("Left pectoral pacemaker with leads in place.",), ()),
    "wires": (("Sternotomy wires are intact.", "Status post median sternotomy."), ()),
    "port": (("Right chest port terminates in the SVC.",), ()),
    "line": (("Right internal jugular line in standard position.",), ()),
}  # fmt: skip

# Other studies: how likely each is ordered, and what each can show, with what makes it be there.
_Show = tuple[dict[str, float], float, tuple[str, ...], tuple[str, ...]]
_STUDIES: dict[str, tuple[float, dict[str, float], tuple[_Show, ...]]] = {
    "CT HEAD W/O CONTRAST": (-0.3, {"brain": 1.0, "stroke": 1.2, "epilepsy": 0.8, "encephalopathy": 0.8, "age": 0.3}, (
        ({"stroke": 2.6, "vascular": 0.3}, -3.0,
         ("Hypodensity in the left MCA territory, concerning for acute infarct.", "Loss of gray-white differentiation.",
          "Intraparenchymal hemorrhage."),
         ("No acute intracranial abnormality.", "No evidence of hemorrhage or infarct.")),
        ({"vascular": 1.0, "age": 1.0, "hypertension": 0.4}, -0.8, ("Chronic small vessel ischemic changes.",), ()),
        ({"age": 1.0, "substance": 0.6, "epilepsy": 0.6}, -1.0, ("Global cerebral atrophy.",), ()),
    )),
    "CT ABDOMEN AND PELVIS": (-0.2,
        {"bleeding": 0.4, "pancreatitis": 1.8, "digestive_cancer": 1.2, "cancer": 0.5, "substance": 0.2,
         "gastrointestinal_bleeding": 0.8}, (
        ({"pancreatitis": 3.2}, -3.2,
         ("Peripancreatic stranding.", "Edematous pancreas with surrounding fluid."),
         ("The pancreas is unremarkable.",)),
        ({"digestive_cancer": 2.8, "cancer": 0.3}, -3.2,
         ("Circumferential bowel wall mass.", "Hypodense pancreatic lesion."), ("No bowel wall thickening or mass.",)),
        ({"metastatic_cancer": 2.8, "cancer": 0.3}, -3.2,
         ("Multiple liver lesions suspicious for metastases.", "Enlarged retroperitoneal nodes."),
         ("No suspicious liver lesion.", "No adenopathy.")),
        ({"cirrhosis": 2.5, "liver": 0.4}, -3.0,
         ("Nodular liver contour with splenomegaly.", "Ascites."), ("No free fluid.",)),
        ({"vascular": 1.0, "age": 0.6, "peripheral_artery_disease": 1.0}, -0.6,
         ("Extensive aortoiliac calcification.",), ()),
        ({"prostatic_hyperplasia": 2.5}, -3.5, ("The prostate is enlarged.",), ()),
        ({"pleural_effusion": 2.2}, -2.5, ("Small pleural effusions at the bases.",), ("The lung bases are clear.",)),
        ({"gastroesophageal_reflux": 1.8}, -2.2, ("Small hiatal hernia.",), ()),
    )),
    "LIVER AND GALLBLADDER US": (-1.2, {"liver": 0.9, "cirrhosis": 1.0, "viral_hepatitis": 0.8, "pancreatitis": 0.6}, (
        ({"cirrhosis": 2.8, "liver": 0.5}, -2.2,
         ("Coarse nodular liver.", "Cirrhotic liver with ascites and splenomegaly."), ("Normal liver echotexture.",)),
        ({"obesity": 1.2, "metabolic": 0.7, "substance": 0.4}, -1.2,
         ("Echogenic liver consistent with steatosis.",), ()),
        ({"pancreatitis": 1.5, "metabolic": 0.4}, -1.8, ("Cholelithiasis.",), ("No gallstones.",)),
    )),
    "RENAL US": (-1.4, {"kidney": 0.9, "renal": 0.6, "acute_kidney_injury": 0.7, "prostatic_hyperplasia": 0.5}, (
        ({"chronic_kidney_disease": 2.4, "renal": 0.5}, -2.0,
         ("Small echogenic kidneys.", "Bilateral cortical thinning."), ("Normal size kidneys.",)),
        ({"prostatic_hyperplasia": 2.4}, -3.0, ("Enlarged prostate with post-void residual.",), ()),
        ({"kidney": 0.5, "acute_kidney_injury": 0.4}, -2.6, ("Mild hydronephrosis.",), ("No hydronephrosis.",)),
    )),
    "BILATERAL LOWER EXTREMITY VEINS": (-1.5, {"venous_thromboembolism": 1.8, "cancer": 0.4, "congestion": 0.3}, (
        ({"venous_thromboembolism": 3.0}, -3.0,
         ("Occlusive thrombus in the femoral vein.", "Deep vein thrombosis."),
         ("No evidence of deep venous thrombosis.",)),
    )),
    "CTA CHEST": (-1.2, {"venous_thromboembolism": 1.6, "breathing": 0.5, "cancer": 0.4}, (
        ({"venous_thromboembolism": 3.0}, -3.2,
         ("Segmental pulmonary emboli.", "Filling defect in the right pulmonary artery."), ("No pulmonary embolism.",)),
        ({"copd": 2.0, "pulmonary": 0.7}, -1.8, ("Centrilobular emphysema.",), ()),
        ({"ischemic_heart_disease": 1.8, "vascular": 0.7}, -1.6, ("Coronary artery calcifications.",), ()),
        ({"pneumonia": 2.2}, -2.6, ("Lower lobe consolidation.",), ("No consolidation.",)),
    )),
    "KNEE FILMS": (-1.5, {"osteoarthritis": 1.4, "gout": 1.2, "age": 0.3, "severity": -0.4}, (
        ({"osteoarthritis": 2.2, "age": 0.6}, -1.6,
         ("Tricompartmental joint space narrowing.", "Degenerative changes."), ("Joint spaces are preserved.",)),
        ({"gout": 2.2}, -3.2,
         ("Periarticular erosions.", "Joint effusion with soft tissue tophus."), ("No joint effusion.",)),
    )),
}  # fmt: skip
_ENDINGS = {
    "HOME": "The patient improved and was discharged home.", "HOME HEALTH CARE": "Discharged home with services.",
    "DIED": "The patient passed away with family at the bedside.",
}  # fmt: skip


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
            writer.chest(stay, time)
            reported[stay] += 1
    for stay, hours in zip(np.flatnonzero(has_notes), stays.hours[has_notes], strict=True):
        for _ in range(int(reported[stay] == 0) + writer.dice.happens(0.55)):
            writer.study(stay, -1.0 + 16 * writer.dice.roll())
        if hours > 36 and writer.dice.happens(0.3):
            writer.study(stay, 25 + (hours - 26) * writer.dice.roll())
        if writer.dice.happens(0.95):
            writer.discharge(stay)
    return writer.radiology_rows(), writer.discharge_rows()


class _Writer:
    def __init__(self, rng: np.random.Generator, stays: Stays, findings: Findings) -> None:
        self.dice = _Dice(rng)
        self._stays = stays
        self._x = stays.x
        self._findings = findings
        self._known = [_known(self.dice, row, stays, k) for k, row in enumerate(stays.x)]
        self._complaints = _complaints(rng, stays)
        chances = np.column_stack(
            [base + stays.score(causes) for base, causes, _ in _STUDIES.values()]
        )
        self._orders = np.exp(chances)
        self._radiology: list[tuple[int, Any, Any, str]] = []
        self._discharge: list[tuple[int, Any, Any, str]] = []

    def chest(self, stay: int, time: Any) -> None:
        f = self._findings
        dice = self.dice
        effusion = f.effusion[stay]
        there = {
            "heart": f.heart[stay] > 0.55, "effusion": effusion.max() > 0.3, "oedema": f.oedema[stay] > 0.3,
            "opacity": f.opacity[stay] > 0.38, "inflation": f.inflation[stay] > 0.75, "nodules": f.nodules[stay] > 0,
            "aorta": f.aorta[stay] > 1, "band": f.band[stay].max() > 0.5, "tube": f.tube[stay],
            "pacemaker": f.pacemaker[stay],
            "wires": f.wires[stay], "port": f.port[stay], "line": f.line[stay],
        }  # fmt: skip
        side = (
            "bilateral"
            if effusion.min() > 0.25
            else "right"
            if effusion[0] > effusion[1]
            else "left"
        )
        words = {"side": side, "site": SITES[f.opacity_site[stay]]}
        lines = []
        for name, (present, absent) in _CHEST.items():
            # A part is overlooked, and now and then something is seen that is not there.
            if dice.happens(0.7 if there[name] else 0.03):
                lines.append(_sentence(dice.pick(present).format(**words)))
            elif absent and not there[name] and dice.happens(0.35):
                lines.append(dice.pick(absent))
        self._report(
            stay,
            time,
            dice.pick(("CHEST (PORTABLE AP)", "CHEST (PA AND LAT)", "CHEST RADIOGRAPH")),
            lines,
        )

    def study(self, stay: int, hour: float) -> None:
        dice = self.dice
        orders = self._orders[stay]
        place = dice.roll() * orders.sum()
        name = list(_STUDIES)[int(np.searchsorted(np.cumsum(orders), place))]
        lines = []
        for causes, base, present, absent in _STUDIES[name][2]:
            score = base + sum(
                weight * self._x[stay, _COLUMN[cause]] for cause, weight in causes.items()
            )
            if dice.happens(1 / (1 + np.exp(-score))):
                lines.append(dice.pick(present))
            elif absent and dice.happens(0.7):
                lines.append(dice.pick(absent))
        self._report(stay, self._stays.admit[stay] + _seconds(hour), name, lines)

    def discharge(self, stay: int) -> None:
        stays = self._stays
        dice = self.dice
        names = [name.replace("_", " ") for k, name in enumerate(DISEASES) if stays.coded[stay, k]]
        place = stays.place[stay]
        ending = _ENDINGS.get(place, "Discharged for further care.")
        days = int(stays.hours[stay] // 24)
        text = (
            "Name: ___    Unit No: ___\n\nAdmission Date: ___    Discharge Date: ___\n\nChief "
            f"Complaint:\n{self._complaint(stay)}\n\nHistory of Present "
            f"Illness:\n{self._person(stay)} with {self._history(stay)} who presented with "
            f"{self._complaint(stay)}.\n\nBrief Hospital Course:\nThe patient was treated for "
            f"{', '.join(names[:6]) or 'observation'} over {days} days. {ending}\n\nDischarge "
            f"Disposition:\n{(place or 'unknown').capitalize()}\n\nDischarge Diagnosis:\n"
            + "\n".join(name.capitalize() for name in names)
            + "\n"
        )
        # The summary bears the day of discharge; it is signed days later.
        day = stays.discharge[stay].astype("datetime64[D]").astype("datetime64[s]")
        signed = stays.discharge[stay] + _seconds(2 + 120 * dice.roll())
        self._discharge.append((stay, day, signed, text))

    def _report(self, stay: int, time: Any, name: str, lines: list[str]) -> None:
        dice = self.dice
        # Some indications tell the complaint alone.
        history = f" with {self._history(stay)}," if dice.happens(0.85) else ""
        findings = " ".join(lines) or "Unremarkable study."
        indication = (
            f"{self._person(stay)}{history} presenting with {self._complaint(stay)}. // "
            f"{dice.pick(_QUESTIONS)}"
        )
        text = (
            f"EXAMINATION: {name}\n\nINDICATION: {indication}\n\nCOMPARISON: "
            f"{dice.pick(_COMPARISONS)}\n\nFINDINGS: {findings}\n\nIMPRESSION: "
            f"{dice.pick(lines) if lines else 'No acute process.'}\n"
        )
        stored = time + _seconds(0.5 + 5 * dice.roll() ** 2)
        self._radiology.append((stay, time, stored, text))

    def _person(self, stay: int) -> str:
        return (
            f"___ year old {'man' if self._stays.is_male[self._stays.patient[stay]] else 'woman'}"
        )

    def _complaint(self, stay: int) -> str:
        return self.dice.pick((" and ", ", ")).join(self._complaints[stay])

    def _history(self, stay: int) -> str:
        """Each report repeats most of what is known."""
        told = [item for item in self._known[stay] if self.dice.happens(0.8)]
        return ", ".join(told) or "no significant history"

    def radiology_rows(self) -> pl.DataFrame:
        return self._rows(self._radiology, "RR")

    def discharge_rows(self) -> pl.DataFrame:
        return self._rows(self._discharge, "DS")

    def _rows(self, notes: list[tuple[int, Any, Any, str]], kind: str) -> pl.DataFrame:
        stays = self._stays
        stay = np.array([note[0] for note in notes], dtype=int)
        frame = pl.DataFrame({
            "subject_id": stays.subject_id[stays.patient[stay]],
            "hadm_id": stays.hadm_id[stay],
            "charttime": as_times(np.array([note[1] for note in notes], dtype="datetime64[s]")),
            "storetime": as_times(np.array([note[2] for note in notes], dtype="datetime64[s]")),
            "text": pl.Series([note[3] for note in notes], dtype=pl.String),
        })  # fmt: skip
        return frame.sort("subject_id", "charttime").with_columns(
            note_type=pl.lit(kind),
            note_seq=pl.int_range(2, pl.len() + 2).over("subject_id"),
        ).with_columns(note_id=pl.format("{}-{}-{}", "subject_id", "note_type", "note_seq"))  # fmt: skip


_QUESTIONS = (
    "Please evaluate.",
    "Acute process?",
    "Interval change?",
    "r/o acute pathology",
    "Assess for cause.",
)
_COMPARISONS = ("None.", "Prior study of ___.", "___", "No prior available.")
_COLUMN = {name: k for k, name in enumerate(DRIVERS)}


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _seconds(hours: float) -> np.timedelta64:
    return np.timedelta64(int(3600 * hours), "s")


def _known(dice: _Dice, x: Array, stays: Stays, stay: int) -> list[str]:
    """What is known of a stay's patient, in words, in no order."""
    told = []
    for name, (chance, words) in _KNOWN.items():
        if x[_COLUMN[name]] > 0:
            if dice.happens(chance):
                told.append(dice.pick(words))
        elif dice.happens(_WRITTEN_WRONGLY * (1 if DISEASES[name].share > 0.1 else 0.5)):
            told.append(dice.pick(words))
        elif dice.happens(_DENIED):
            told.append(f"no {words[0]}")
    for words, (factor, above) in _CIRCUMSTANCES.items():
        if dice.happens(
            1 / (1 + np.exp(-2.5 * (x[_COLUMN[factor]] - above) - 0.5))
        ) and dice.happens(0.6):
            told.append(words)
    return sorted(told, key=lambda _: dice.roll())[:9]


def _complaints(rng: np.random.Generator, stays: Stays) -> list[list[str]]:
    """One to three complaints of each stay."""
    scores = np.column_stack([base + stays.score(causes) for base, causes in _COMPLAINTS.values()])
    order = np.argsort(-(scores + rng.gumbel(size=scores.shape)), axis=1)
    names = list(_COMPLAINTS)
    many = rng.integers(1, 4, len(stays))
    return [[names[k] for k in row[:count]] for row, count in zip(order, many, strict=True)]
