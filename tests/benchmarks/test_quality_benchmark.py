"""The benchmark of quality, on made-up patients in the Challenge 2012's columns: who learns from
which labels.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import quality

from m3h_core.data.cohort import TEST, TRAIN, VALID
from quality_study.arms import own_rows
from quality_study.cache import key
from quality_study.data import fewer_rows, scarce
from quality_study.summary import (
    MEASURED,
    NEAR_TWINS,
    SCARCE_TASKS,
    TASKS,
    SummaryData,
    Table,
    cohort_of,
    embedded,
    near_twins,
)
from quality_study.task_arms import linear

pytestmark = pytest.mark.slow(20)

N = 400
FIRST = (
    "DiasABP",
    "GCS",
    "Glucose",
    "HR",
    "MAP",
    "NIDiasABP",
    "NIMAP",
    "NISysABP",
    "RespRate",
    "SaO2",
    "Temp",
    "ALP",
    "ALT",
    "AST",
    "Albumin",
    "BUN",
    "Bilirubin",
    "Cholesterol",
    "Creatinine",
    "FiO2",
    "HCO3",
    "HCT",
    "K",
    "Lactate",
    "Mg",
    "Na",
    "PaCO2",
    "PaO2",
    "Platelets",
    "SysABP",
    "TroponinI",
    "TroponinT",
    "WBC",
    "Weight",
    "pH",
)
BY_NAME = {task.name: task for task in TASKS}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A table of patients with one cause of everything."""
    rng = np.random.default_rng(0)
    severity = rng.normal(size=N)

    def noisy(gaps: float = 0.2) -> np.ndarray:
        values = 50 + 10 * severity + rng.normal(scale=10, size=N)
        return np.where(rng.random(N) < gaps, np.nan, values)

    frame = pd.DataFrame(
        {name: noisy(0) for name in ("Age", "Gender", "Height", "CCU", "CSRU", "SICU")}
    )
    frame = frame.assign(
        **{f"{name}_first": noisy() for name in FIRST}, **{f"{n}_last": noisy() for n in MEASURED}
    )
    frame["In-hospital_death"] = (severity + rng.normal(size=N) > 0.5).astype(int)
    frame["Survival"] = np.where(rng.random(N) < 0.5, -1, rng.integers(0, 60, N))
    frame["Length_of_stay"] = rng.integers(-1, 20, N)
    frame["SAPS-I"] = rng.integers(-1, 30, N)
    frame["SOFA"] = rng.integers(-1, 20, N)
    frame["MechVentLast8Hour"] = np.where(rng.random(N) < 0.4, np.nan, rng.integers(0, 2, N))
    frame["UrineOutputSum"] = np.where(
        frame["MechVentLast8Hour"].isna(), np.nan, rng.integers(1, 44, N)
    )
    target = tmp_path_factory.mktemp("challenge") / "set.csv.gz"
    frame.to_csv(target, index=False)
    return target


@pytest.fixture(scope="module")
def table(file) -> Table:
    return Table.read(file)


def test_labels_as_documented(file, table):
    frame = pd.read_csv(file)
    cohort = cohort_of(table, 0)
    assert len(TASKS) == 31
    assert np.column_stack(list(table.inputs.values())).shape == (N, 41)
    stay = frame["Length_of_stay"].to_numpy()
    for name in ("los_over_7", "log_los"):
        assert (cohort.labelled[name] == (stay > 0)).all()
    assert (cohort.labels["los_over_7"][stay > 0] == (stay > 7)[stay > 0]).all()
    assert (cohort.labelled["saps"] == (frame["SAPS-I"] >= 0)).all()
    assert (cohort.labelled["sofa"] == (frame["SOFA"] >= 0)).all()
    assert cohort.labelled["ventilated"].all()
    assert (cohort.labels["ventilated"] == (frame["MechVentLast8Hour"] == 1)).all()
    assert (
        cohort.labels["death_30d"] == ((frame["Survival"] >= 0) & (frame["Survival"] <= 30))
    ).all()
    assert (cohort.labelled["log_urine"] == frame["UrineOutputSum"].notna()).all()
    train = frame["K_last"].to_numpy()[cohort.split == TRAIN]
    assert np.nanmax(cohort.labels["K"]) == pytest.approx(np.nanpercentile(train, 99.5))


def test_seeds_draw_their_own_splits(table):
    cohorts = [cohort_of(table, seed) for seed in range(2)]
    for cohort in cohorts:
        assert [int((cohort.split == part).sum()) for part in (TRAIN, VALID, TEST)] == [
            240,
            60,
            100,
        ]
    assert (cohorts[0].split != cohorts[1].split).any()


def test_fewer_rows_keep_the_test_rows(table):
    cohort = cohort_of(table, 0)
    few, fewer = (fewer_rows(cohort, n, 0) for n in (120, 60))
    assert [len(few.rows(part)) for part in (TRAIN, VALID, TEST)] == [120, 30, 100]
    assert set(fewer.rows(TRAIN)) < set(few.rows(TRAIN)) < set(cohort.rows(TRAIN))
    assert (few.rows(TEST) == cohort.rows(TEST)).all()


def test_near_twins_are_symmetric():
    for task in BY_NAME:
        assert all(task in near_twins(other) and other in BY_NAME for other in near_twins(task))
    assert set.union(*NEAR_TWINS) <= set(BY_NAME)


@pytest.mark.parametrize("task", SCARCE_TASKS)
def test_scarce_task_and_its_near_twins_lose_the_same_labels(table, task):
    cohort = cohort_of(table, 0)
    cut = scarce(cohort, task, near_twins(task), 50, 20, 0)
    for part, n in ((TRAIN, 50), (VALID, 20)):
        left = cut.labelled[task] & (cut.split == part)
        assert left.sum() == n
        for twin in near_twins(task):
            assert not (cut.labelled[twin] & (cut.split == part) & ~left).any()
    test = cohort.split == TEST
    for name in BY_NAME:
        assert (cut.labelled[name][test] == cohort.labelled[name][test]).all()
        if name not in {task, *near_twins(task)}:
            assert (cut.labelled[name] == cohort.labelled[name]).all()
    own = own_rows(cut, BY_NAME[task])
    assert [len(own.rows(part)) for part in (TRAIN, VALID)] == [50, 20]


def test_a_task_whose_label_is_an_input_is_left_out(file, tmp_path):
    assert not SummaryData(file).left_out
    frame = pd.read_csv(file)
    once = np.random.default_rng(0).random(N) < 0.3
    frame["Lactate_last"] = frame["Lactate_last"].where(~once, frame["Lactate_first"])
    frame.to_csv(tmp_path / "copied.csv", index=False)
    data = SummaryData(tmp_path / "copied.csv")
    assert set(data.left_out) == {"Lactate"}
    assert data.left_out["Lactate"].startswith("equals Lactate_first on ")
    assert len(data.tasks) == len(TASKS) - 1


def test_no_test_row_is_learnt_from(table):
    """Other labels and other inputs in the test rows leave the embedding and the predictions of the
    rest alone.
    """
    cohort = cohort_of(table, 0)
    test = cohort.split == TEST
    tasks = [BY_NAME["death"], BY_NAME["K"]]
    embedded_cohort = embedded(cohort, table)
    labels = {
        name: np.where(test, 1 - np.nan_to_num(values), values)
        for name, values in table.labels.items()
    }
    inputs = {name: np.where(test, values + 30, values) for name, values in table.inputs.items()}
    other = embedded(cohort_of(Table(inputs, labels), 0), Table(inputs, labels))
    assert (
        embedded_cohort.embeddings["tabular"][~test] == other.embeddings["tabular"][~test]
    ).all()
    relabelled = replace(embedded_cohort, labels=other.labels, labelled=other.labelled)
    arm = linear()
    assert key(arm, embedded_cohort, tasks, 0) == key(arm, relabelled, tasks, 0)
    assert key(arm, embedded_cohort, tasks, 0) != key(arm, embedded_cohort, tasks, 1)
    for name, prediction in arm.fit(other, tasks, 0).items():
        np.testing.assert_allclose(
            prediction[~test], arm.fit(embedded_cohort, tasks, 0)[name][~test], rtol=1e-12
        )


def test_tables_come_out_and_the_second_run_fits_nothing(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quality, "RESAMPLES", 50)
    monkeypatch.setattr(quality, "CURVE", (60,))
    monkeypatch.setattr("quality_study.summary.SCARCE_TASKS", ("death", "sofa"))
    monkeypatch.setattr(quality, "SCARCE_LABELS", (50, 20))
    monkeypatch.setattr(
        "quality_study.task_arms.SEARCH", ((2, 4, 0.1, 5, 0.5, 1.0), (3, 7, 0.1, 5, 0.5, 1.0))
    )
    options = [
        "--data",
        file,
        "--cache",
        tmp_path / "cache",
        "--json",
        tmp_path / "all.json",
        "--splits",
        1,
    ]
    options += [
        "--epochs",
        2,
        "--tasks",
        "death,death_30d,sofa,K",
        "--arms",
        "joint,no-attention,single,lightgbm,linear",
    ]
    quality.main([str(part) for part in options])
    first = capsys.readouterr()
    for part in (
        "## main",
        "## curve 60",
        "## scarce",
        "## ablation",
        "| joint minus |",
        "| joint against |",
    ):
        assert part in first.out
    assert "nan" not in first.out
    record = json.loads((tmp_path / "all.json").read_text())
    assert set(record["scarce"]["tasks"]["joint"]) == {"death", "sofa"}
    assert set(record["main"]["joint minus"]) == {"single", "lightgbm", "linear"}
    value, low, high = record["main"]["joint minus"]["single"]["R2"]["difference"]
    assert low <= value <= high

    quality.main([str(part) for part in options])
    second = capsys.readouterr()
    assert second.out == first.out
    assert "\n0 fitted" in second.err
