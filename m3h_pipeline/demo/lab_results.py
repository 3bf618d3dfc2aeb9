"""Laboratory results, as rows of MIMIC-IV's labevents."""

from __future__ import annotations

import numpy as np
import polars as pl

from m3h_pipeline.demo.lab_items import LAB_ITEMS, LAB_SIGNALS
from m3h_pipeline.demo.signals import draw_course, to_minutes
from m3h_pipeline.demo.stays import Array, Stays, logistic, to_times

_DAYS_OF_LABS = 5


def draw_lab_results(rng: np.random.Generator, stays: Stays, first: int) -> pl.DataFrame:
    """Rows of labevents: draws from the emergency room on, and of some patients in the clinic long
    before.
    """
    stay, time, draw = _draw_blood(rng, stays)
    hour = (time - stays.admit[stay]).astype(float) / 3600
    values = {
        name: draw_course(rng, signal, stays, stay, hour) for name, signal in LAB_SIGNALS.items()
    }
    days = np.clip(hour / 24, -0.5, 4)
    injured = _draw_injured_kidneys(rng, stays, stay, days)
    values["creatinine"] *= np.exp(0.38 * injured)
    values["urea_nitrogen"] *= np.exp(0.28 * injured)
    # A bleed shows only as fluid comes in.
    values["hemoglobin"] -= (
        0.6 * stays.driver("gastrointestinal_bleeding")[stay] * np.clip(0.3 + days, 0, 1)
    )
    # Chloride balances sodium; red cells follow from haemoglobin and the cells' size.
    values["chloride"] = (
        values["sodium"]
        - values["bicarbonate"]
        - values["anion_gap"]
        + rng.normal(0, 0.8, len(stay))
    )
    values["hematocrit"] = 100 * values["hemoglobin"] / values["mchc"]
    values["red_blood_cells"] = 10 * values["hematocrit"] / values["mcv"]
    values["mch"] = values["mchc"] * values["mcv"] / 100

    infection = stays.score({"infection": 0.8, "sepsis": 1.0, "pneumonia": 0.7})
    treated = (rng.random(len(stays)) < logistic(infection - 2.2))[stay]
    severity = stays.driver("severity")[stay]
    # Chance that a draw has a panel.
    chances = {
        "basic": np.full(len(stay), 0.96),
        "extended": np.where(draw == 0, 0.75, 0.65),
        "blood count": np.full(len(stay), 0.93),
        "differential": np.where(draw == 0, 0.6, 0.06),
        "vancomycin": 0.35 * treated * (draw >= 2),
        "sick": logistic(-1.2 + 0.5 * severity + 0.3 * infection[stay]),
    }
    chosen = {panel: rng.random(len(stay)) < chance for panel, chance in chances.items()}
    # Known some hours later; panels of one draw come from different machines.
    stored = {
        panel: time + rng.integers(50, 300, len(stay)).astype("timedelta64[m]") for panel in chances
    }
    urgent = rng.random(len(stay)) < logistic(0.2 + 0.5 * severity)
    without_stay = (rng.random(len(stay)) < np.where(draw == 0, 0.3, 0.1)) | (draw < 0)
    specimen = rng.integers(1_000_000, 99_999_999, len(stay))

    frames = []
    for name, lab in LAB_ITEMS.items():
        rows = np.flatnonzero(chosen[lab.panel] & (rng.random(len(stay)) > 0.01))
        number = np.round(np.maximum(values[name][rows], 10.0**-lab.decimals), lab.decimals)
        if lab.unit == "%":
            number = np.minimum(number, 100)
        unusual = rng.random(len(rows))
        frames.append(
            pl.DataFrame(
                {
                    "row": rows,
                    "itemid": np.full(len(rows), lab.item),
                    "number": number,
                    "is_lost": unusual < 0.004,
                    "is_hidden": (unusual > 0.7) & bool(lab.comment),
                    "valueuom": pl.Series([lab.unit or None], dtype=pl.String).new_from_index(
                        0, len(rows)
                    ),
                    "ref_range_lower": np.full(len(rows), float(lab.low)),
                    "ref_range_upper": np.full(len(rows), float(lab.high)),
                    "remark": pl.Series([lab.comment or None], dtype=pl.String).new_from_index(
                        0, len(rows)
                    ),
                    "storetime": to_times(stored[lab.panel][rows]),
                }
            )
        )
    results = pl.concat(frames).sort("row", "itemid")
    row = results["row"].to_numpy()
    in_stay = stay[row]
    text = pl.col("number").cast(pl.String).str.strip_suffix(".0")
    return results.with_columns(
        labevent_id=first + 1 + np.arange(len(row)),
        subject_id=stays.subject_id[stays.patient[in_stay]],
        hadm_id=pl.when(~pl.Series(without_stay[row])).then(pl.Series(stays.hadm_id[in_stay])),
        specimen_id=specimen[row],
        order_provider_id=pl.lit(None, pl.String),
        charttime=to_times(time[row]),
        value=pl.when("is_lost").then(None).when("is_hidden").then(pl.lit("___")).otherwise(text),
        valuenum=pl.when("is_lost").then(None).otherwise(text),
        flag=pl.when(~pl.col("number").is_between("ref_range_lower", "ref_range_upper")).then(
            pl.lit("abnormal")
        ),
        priority=pl.when(pl.Series(urgent[row])).then(pl.lit("STAT")).otherwise(pl.lit("ROUTINE")),
        comments=pl.when("is_lost").then(pl.lit("UNABLE TO REPORT.")).otherwise("remark"),
        ref_range_lower=pl.col("ref_range_lower").cast(pl.String).str.strip_suffix(".0"),
        ref_range_upper=pl.col("ref_range_upper").cast(pl.String).str.strip_suffix(".0"),
    )


def _draw_blood(rng: np.random.Generator, stays: Stays) -> tuple[Array, Array, Array]:
    """Whose blood is drawn, when, and the how-manieth draw of the stay it is (-1: in the clinic,
    before any stay).
    """
    n = len(stays)
    days = np.arange(1, _DAYS_OF_LABS + 1)
    # Each morning at about six; the sick once more on the first day.
    midnight = stays.admit.astype("datetime64[D]").astype("datetime64[m]")
    morning = midnight[:, None] + to_minutes(1440 * days + rng.integers(300, 440, (n, len(days))))
    early = stays.admit.astype("datetime64[m]") + to_minutes(rng.uniform(-180, 90, n))
    again = stays.admit.astype("datetime64[m]") + to_minutes(rng.uniform(300, 720, n))
    before = stays.admit.astype("datetime64[m]") - to_minutes(rng.uniform(30, 300, n) * 1440)
    time = np.column_stack([before, early, again, morning])
    number = np.tile(np.array([-1, 0, 1, *(1 + days)]), (n, 1))
    taken = (time < stays.discharge[:, None]) & (rng.random(time.shape) < 0.9)
    taken[:, 1] = True
    taken[:, 2] &= rng.random(n) < logistic(0.8 * stays.driver("severity"))
    is_first = np.insert(stays.patient[1:] != stays.patient[:-1], 0, True)
    taken[:, 0] = is_first & (rng.random(n) < 0.15)
    return np.nonzero(taken)[0], time[taken].astype("datetime64[s]"), number[taken]


def _draw_injured_kidneys(
    rng: np.random.Generator, stays: Stays, stay: Array, days: Array
) -> Array:
    """How far the kidneys have failed at each draw: half come with it, the others get it in the
    hospital.
    """
    onset = np.where(rng.random(len(stays)) < 0.5, 0, rng.uniform(0.3, 2.5, len(stays)))
    return stays.driver("acute_kidney_injury")[stay] * logistic(1 + 4 * (days - onset[stay]))
