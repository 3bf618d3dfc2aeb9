"""Billing codes that stand for each disease, ICD-9-CM and ICD-10-CM, with their official titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from m3h_pipeline.demo.diseases import DISEASES
from m3h_pipeline.demo.stays import Stays

# Disease, version, code, how often it is chosen among the disease's codes of that version, title.
# Under "other" are codes that belong to no disease of the story: every stay has some.
CODES = pl.read_csv(
    Path(__file__).with_name("icd_codes.csv"),
    schema_overrides={"icd_version": pl.Int64, "icd_code": pl.String, "weight": pl.Int64},
)


def list_codes() -> pl.DataFrame:
    """Rows of d_icd_diagnoses.

    >>> list_codes().filter(icd_code="I10")["long_title"].to_list()
    ['Essential (primary) hypertension']
    """
    return CODES.sort("icd_version", "icd_code")


def draw_diagnoses(rng: np.random.Generator, stays: Stays) -> pl.DataFrame:
    """Rows of diagnoses_icd. A few stays have no code at all: not yet billed."""
    rows = []
    billed = rng.random(len(stays)) > 0.01
    for version in (9, 10):
        of_version = np.flatnonzero((stays.icd_version == version) & billed)
        for k, disease in enumerate([*DISEASES, "other"]):
            codes = CODES.filter(icd_version=version, disease=disease)
            if disease == "other":
                stay = np.repeat(of_version, 1 + rng.poisson(2.5, len(of_version)))
            else:
                stay = of_version[stays.coded[of_version, k]]
            weights = codes["weight"].to_numpy() / codes["weight"].sum()
            chosen = codes["icd_code"].gather(rng.choice(len(codes), len(stay), p=weights))
            rows.append(
                pl.DataFrame(
                    {"stay": stay, "icd_code": chosen, "icd_version": np.full(len(stay), version)}
                )
            )
    billed_codes = pl.concat(rows).unique(maintain_order=True)
    # The order of billing: by no rule that tells anything.
    billed_codes = billed_codes.with_columns(order=rng.random(len(billed_codes))).sort(
        "stay", "order"
    )
    index = billed_codes["stay"].to_numpy()
    return billed_codes.with_columns(
        subject_id=stays.subject_id[stays.patient[index]],
        hadm_id=stays.hadm_id[index],
        seq_num=pl.int_range(1, pl.len() + 1).over("stay"),
    )
