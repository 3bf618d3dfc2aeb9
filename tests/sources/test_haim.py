"""HAIM-MIMIC-MM's file: a sample an image, its labels and vectors, its duplicates and its malformed
tail.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from haim_folder import ADMITTED, HEADER, row, write
from passage import Passage
from safetensors.numpy import load_file

from m3h_core import FitConfig, TaskSpec, fit
from m3h_pipeline.config import open_source
from m3h_pipeline.contracts.validation import validate
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.assemble import write_cohort
from m3h_pipeline.features.items import MODALITIES
from m3h_pipeline.jobs.embed import embed
from m3h_pipeline.sources import Settings
from m3h_pipeline.sources.haim.layout import TASKS, WIDTHS


def passage(folder: Path, rows: list[dict[str, Any]], **how: Any) -> Passage:
    return Passage(
        open_source("haim", write(folder / "haim", rows, **how)), folder / "out", Settings()
    )


def labels_of(result: Passage, sample: str) -> dict[str, float]:
    return dict(
        result.valid("labels")
        .filter(pl.col("sample_id").str.starts_with(sample))
        .select("task", "value")
        .rows()
    )


def test_the_made_up_file_has_the_layout_of_the_published_one():
    assert len(HEADER) == 7 + sum(WIDTHS.values()) + 768 + 1 + 14 + 2
    assert HEADER[:7] == [
        "haim_id",
        "img_id",
        "img_charttime",
        "img_deltacharttime",
        "discharge_location",
        "img_length_of_stay",
        "death_status",
    ]
    assert HEADER[-4:] == [
        "Pneumothorax",
        "Support Devices",
        "PerformedProcedureStepDescription",
        "ViewPosition",
    ]


def test_what_a_row_becomes(tmp_path):
    cells = row(7, 1, img_length_of_stay=47.5, death_status=0)
    result = passage(tmp_path, [cells], subjects=[f"subject {i}" for i in range(9)])
    sample = result.valid("samples").row(0, named=True)
    taken = ADMITTED + dt.timedelta(hours=34)
    assert sample | {"split": None} == {
        "sample_id": f"img-7-1-{taken:%Y%m%d%H%M%S}",
        "stay_id": "7",
        "subject_id": "subject 7",
        "admit_time": ADMITTED,
        "discharge_time": taken + dt.timedelta(hours=47.5),
        "prediction_time": taken,
        "split": None,
        "sex": "M",
    }
    vectors = dict(result.valid("embeddings").select("modality", "vector").rows())
    for modality, prefixes in {
        "tabular": ["de_"],
        "timeseries": ["ts_ce_", "ts_le_", "ts_pe_"],
        "language": ["n_ecg_", "n_ech_"],
        "vision": ["vd_", "vp_", "vmd_", "vmp_"],
    }.items():
        expected = [cells[f"{prefix}{i}"] for prefix in prefixes for i in range(WIDTHS[prefix])]
        assert vectors[modality] == pytest.approx(expected), modality
    assert sorted(result.inputs()) == sorted(
        [f"{name}.parquet" for name in ("samples", "codes", *MODALITIES)]
        + [f"given_{name}.parquet" for name in MODALITIES]
    )


def test_the_twelve_tasks(tmp_path):
    values = {"Atelectasis": "1.0", "Cardiomegaly": "0.0", "Edema": "-1.0", "Lung Lesion": ""}
    result = passage(
        tmp_path,
        [
            row(1, **values, img_length_of_stay=47.9, death_status=0),
            row(2, img_length_of_stay=47.9, death_status=1),
            row(3, img_length_of_stay=48.0, death_status=1),
            row(4, img_length_of_stay="", death_status=0),
        ],
    )
    assert len(TASKS) == 12
    labels = labels_of(result, "img-1-")
    assert (labels["atelectasis"], labels["cardiomegaly"]) == (1.0, 0.0)
    assert not {"edema", "lung_lesion", "no_finding", "support_devices"} & labels.keys()
    both = ["discharged_within_48h", "died_within_48h"]
    by_image = [labels_of(result, f"img-{i}-") for i in (1, 2, 3, 4)]
    expected = [(1, 0), (0, 1), (0, 0), (None, 0)]
    for labels, values in zip(by_image, expected, strict=True):
        assert tuple(labels.get(task) for task in both) == values


@pytest.mark.slow(3)
def test_duplicates_and_the_malformed_tail_are_accounted_for(tmp_path):
    rows = [row(i, image) for i in range(1, 30) for image in range(2)]
    again = [row(1, 0), row(2, 0, haim_id=77), row(1, 0, img_charttime="2180-05-02 08:00:01")]
    result = passage(tmp_path, rows + again, tail="12,img-x,2180-05\n3,4\n" + "5," * 5000 + "6\n")
    assert result.facts["rows read"] == {"cxr_ic_fusion_1103.csv": len(rows) + 6}
    assert result.split["samples"].kept == len(rows) + 1
    assert result.out_of_scope("samples") == {
        "the same image again, under another ICU stay of its admission": 1
    }
    assert sorted(result.reasons("samples")) == [
        ("duplicate_key", "No earlier row may have the same sample_id; the first is kept."),
        ("unreadable_field", "These fields could not be read: row: 2 fields, expected 4869"),
        ("unreadable_field", "These fields could not be read: row: 3 fields, expected 4869"),
        ("unreadable_field", "These fields could not be read: row: 5001 fields, expected 4869"),
    ]
    assert result.split["embeddings"].kept == 4 * (len(rows) + 1)
    assert not result.split["labels"].quarantined
    assert not result.split["embeddings"].quarantined
    assert result.read("lineage")["rows"].sum() == len(rows) + 6


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"ts_le_17": "x"}, "ts_ce_*, ts_le_*, ts_pe_*: not all numbers"),
    ({"vd_0": "inf"}, "vd_*, vp_*, vmd_*, vmp_*: not all numbers"),
    ({"img_charttime": "02.05.2180"}, "img_charttime: not a date"),
    ({"img_id": ""}, "img_id: empty"),
    ({"img_length_of_stay": "long"}, "img_length_of_stay: not a number"),
    ({"death_status": "2"}, "death_status: not 0 or 1"),
    ({"death_status": "no"}, "death_status: not 0 or 1"),
    ({"Pneumonia": "3"}, "Pneumonia: not 1, 0 or -1"),
    ({"Pneumonia": "x"}, "Pneumonia: not 1, 0 or -1"),
    ({"haim_id": 90}, "haim_id: not among the keys"),
]


def test_wrong_rows_are_quarantined_each_with_its_reason_and_cost_no_other(tmp_path):
    good = [row(1), row(2)]
    wrong = [row(3, image) | change for image, (change, _) in enumerate(WRONG)]
    result = passage(tmp_path, [*good, *wrong], subjects=["p"] * 5)
    assert sorted(result.reasons("samples")) == sorted(
        ("unreadable_field", f"These fields could not be read: {says}") for _, says in WRONG
    )
    assert [result.split[table].kept for table in ("samples", "embeddings")] == [2, 8]


def test_a_good_copy_of_a_wrong_row_takes_its_place(tmp_path):
    result = passage(tmp_path, [row(1, vd_3="x"), row(1), row(2)])
    assert result.split["samples"].kept == 2
    assert len(labels_of(result, "img-1-")) > 2


def test_empty_numbers_are_nothing_and_a_lone_image_stands_for_its_mean(tmp_path):
    lone = (
        {f"vmd_{i}": "" for i in range(1024)}
        | {f"vmp_{i}": "nan" for i in range(18)}
        | {"ts_le_0": "", "de_5": "NaN"}
    )
    cells = row(1) | lone
    result = passage(tmp_path, [cells])
    vectors = dict(result.valid("embeddings").select("modality", "vector").rows())
    own = [cells[f"vd_{i}"] for i in range(1024)] + [cells[f"vp_{i}"] for i in range(18)]
    assert vectors["vision"] == pytest.approx(own * 2)
    assert vectors["timeseries"][99] == vectors["tabular"][5] == 0.0


@pytest.mark.slow(3)
def test_a_patient_is_whom_the_keys_name_else_who_shares_images(tmp_path):
    rows = [row(1), row(2, 0, haim_id=3), row(2), row(4)]
    without = passage(tmp_path / "without", rows)
    subjects = dict(without.valid("samples").select("stay_id", "subject_id").rows())
    assert subjects == {"1": "1", "2": "2", "4": "4"}
    assert any("a patient is an admission" in limit for limit in without.facts["limits"])
    named = passage(tmp_path / "named", rows, subjects=["a", "b", "c", "c", "b"])
    subjects = dict(named.valid("samples").select("stay_id", "subject_id").rows())
    assert subjects == {"1": "b", "2": "c", "4": "b"}
    assert len(set(named.valid("samples").filter(pl.col("subject_id") == "b")["split"])) == 1
    assert len(named.facts["limits"]) == 2
    assert named.out_of_scope("samples")["no image in the file"] == 1


def test_a_file_of_another_kind(tmp_path):
    source = open_source("haim", tmp_path)
    with pytest.raises(InputError, match=r"has no cxr_ic_fusion_1103\.csv: name the folder"):
        source.check()
    (tmp_path / "cxr_ic_fusion_1103.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        InputError,
        match=r"lacks the column haim_id, .* and 4,\d+ more; it has 2 columns, none with a name",
    ):
        source.check()


@pytest.mark.slow(4)
def test_compressed_and_in_another_order_it_gives_the_same_inputs(tmp_path):
    rows = [row(1), row(2), row(2, 0, haim_id=3), row(1), row(1, 1)]
    write(tmp_path / "reversed", rows[::-1])
    expected = Passage(open_source("haim", tmp_path / "reversed"), tmp_path / "expected")
    write(tmp_path / "haim", rows)
    plain = tmp_path / "haim" / "cxr_ic_fusion_1103.csv"
    plain.with_suffix(".csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert (
        Passage(open_source("haim", tmp_path / "haim"), tmp_path / "gz").inputs()
        == expected.inputs()
    )


@pytest.mark.slow(4)
def test_given_vectors_to_a_model_that_takes_vectors(tmp_path):
    """Through contracts with Great Expectations, the embedding job, a cohort, a model, and how
    MLflow serves it.
    """
    from m3h_pipeline.registry.serving import HospitalModel
    from m3h_pipeline.registry.signature import build_signature

    result = passage(tmp_path, [row(i, image) for i in range(1, 61) for image in range(2)])
    specs = [task.to_dict() for task in TASKS]
    for table in ("samples", "labels", "embeddings"):
        samples = None if table == "samples" else tmp_path / "out/valid_samples/samples.parquet"
        to = tmp_path / "out" / f"valid_{table}"
        facts = validate(
            table, result.ingested / f"{table}.parquet", to, samples=samples, tasks=specs
        )
        assert all(check["passed"] for check in facts["checks"]), facts
    embedded = {}
    for modality in MODALITIES:
        embedded[modality] = tmp_path / "embedding" / modality
        embedded[modality].mkdir(parents=True)
        job = {
            "modality": modality,
            "inputs": tmp_path / "out/inputs",
            "options": {},
            "to": embedded[modality],
        }
        facts = embed(job | {"cache": tmp_path / "cache", "cache_bytes": 0}, lambda line: None)
        assert facts["encoder"]["vectors"] == "given, no encoder"
        assert facts["present"] == 120
        assert abs(load_file(embedded[modality] / "embedding.safetensors")["vectors"]).max() < 20
    labels = tmp_path / "out/valid_labels"
    (labels / "tasks.json").write_text(json.dumps(specs[:2]))
    (tmp_path / "cohort").mkdir()
    write_cohort(tmp_path / "out/valid_samples", labels, embedded, tmp_path / "cohort")
    from m3h_core import Calibrator, Cohort

    cohort = Cohort.load(tmp_path / "cohort")
    assert set(cohort.groups or {}) == {"sex"}
    model = fit(cohort, [TaskSpec.from_dict(task) for task in specs[:2]], FitConfig(epochs=1))
    model.save(tmp_path / "model")
    predictions = model.predict(cohort)
    calibrator = Calibrator.fit(cohort, model.tasks, predictions)
    calibrator.save(tmp_path / "calibration")
    (tmp_path / "embedders").mkdir()
    for modality, folder in embedded.items():
        (folder / "embedder").rename(tmp_path / "embedders" / modality)
    served = HospitalModel()
    parts = ("model", "calibration", "embedders")
    served.load_context(SimpleNamespace(artifacts={part: str(tmp_path / part) for part in parts}))
    given = {
        name: pl.read_parquet(tmp_path / f"out/inputs/given_{name}.parquet") for name in MODALITIES
    }
    rows = pd.DataFrame(
        {f"{name}_vector": frame["vector"].to_list() for name, frame in given.items()}
    )
    scores = served.predict(None, rows)
    y_score = calibrator.calibrated(predictions)["atelectasis"]
    assert np.abs(scores["atelectasis"].to_numpy() - y_score).max() < 1e-5
    without = served.predict(None, rows.drop(columns="vision_vector"))
    assert without["atelectasis"].notna().all()
    assert without["lacks"].tolist() == [["vision"]] * len(rows)
    names = build_signature({"age": "double"}, list(MODALITIES)).inputs.input_names()
    assert names == [f"{name}_vector" for name in MODALITIES]
    assert build_signature({"age": "double"}, ["vision"]).inputs.input_names() == [
        "age",
        "events",
        "notes",
        "vision_vector",
    ]
