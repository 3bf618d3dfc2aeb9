"""The benchmark of quality on a folder of the tables format: splits by patient, leaks, what is
fitted on which rows, and that a run goes on where it was.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import quality
import tables_folder

from m3h_core import Cohort, TaskSpec, config
from m3h_core.data.cohort import CALIBRATION, TEST, TRAIN, VALID
from quality_study import task_arms
from quality_study.statistics import draws_of
from quality_study.tables import TablesData

pytestmark = pytest.mark.slow(20)

STAYS = 360
PATIENTS = 300
COHORT = {
    "timezone": "UTC",
    "features": ["age", "ward"],
    "tasks": [
        {"name": "death", "problem": "binary", "definition": "died in hospital"},
        {"name": "died_of_it", "problem": "binary"},
        {"name": "los", "problem": "regression"},
        {"name": "lactate_next", "problem": "regression"},
        {"name": "copied", "problem": "regression"},
        {"name": "by_ward", "problem": "binary"},
        {"name": "rare", "problem": "binary"},
        {"name": "place", "problem": "multiclass", "classes": ["home", "facility", "died"]},
        {"name": "phenotype", "problem": "clustering"},
    ],
}
JUDGED = ["death", "died_of_it", "los", "lactate_next", "place"]


def hospital() -> tables_folder.Tables:
    """Stays with one cause of everything; some patients have two."""
    rng = np.random.default_rng(0)
    tables = tables_folder.hospital(STAYS)
    labels = []
    ill = rng.normal(size=STAYS)
    for i, (sample, severity) in enumerate(zip(tables["samples"], ill, strict=True)):
        stay = sample["stay_id"]
        sample["subject_id"] = f"p{i % PATIENTS}"
        lactate = next(
            e for e in tables["events"] if e["stay_id"] == stay and e["code"] == "lactate"
        )
        lactate["value"] = round(3 + severity + rng.normal(scale=0.3), 3)
        dies = severity + rng.normal(scale=0.8) > 0.5
        values = {
            "death": int(dies),
            "died_of_it": int(dies) if i % 20 else 0,
            "los": round(5 + severity + rng.normal(), 3),
            "lactate_next": round(lactate["value"] + rng.normal(scale=0.3), 3),
            "copied": lactate["value"] + (i % 3 == 0),
            "by_ward": int(sample["ward"] == "surgery"),
            "rare": int(i % 90 == 0),
            "place": "died" if dies else ["home", "facility"][i % 2],
        }
        labels += [{"sample_id": stay, "task": name, "value": y} for name, y in values.items()]
    return {**tables, "notes": [], "labels": labels}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tables_folder.write(tmp_path_factory.mktemp("hospital"), hospital(), COHORT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(folder, cache) -> TablesData:
    return TablesData(folder, cache)


def test_tasks_that_are_an_input_or_too_rare_are_left_out_by_name(data):
    assert [task.name for task in data.tasks] == JUDGED
    assert [task.name for task in data.helpers] == ["phenotype"]
    assert data.left_out["copied"].startswith("equals the ")
    assert data.left_out["by_ward"] == "is decided by ward on all of 360 labels"
    assert data.left_out["rare"] == "a test split has fewer than 10 of a class"
    assert "4 of 5 tasks have none: died_of_it, los" in data.notes[0]


def test_splits_go_by_patient(data):
    cohorts = [data.cohort(seed) for seed in range(2)]
    for cohort in cohorts:
        splits = pl.DataFrame({"subject": cohort.subjects, "split": cohort.split}).unique()
        assert splits.height == PATIENTS
        counts = dict(splits.group_by("split").len().rows())
        # What the pipeline would calibrate on is trained on.
        assert counts == {TRAIN: 210, VALID: 45, TEST: 45}
    assert (cohorts[0].split != cohorts[1].split).any()


def test_the_pipelines_own_split(folder, cache):
    data = TablesData(folder, cache, product_split=True)
    samples = pl.read_parquet(next(cache.glob("tables-*")) / "valid_samples" / "samples.parquet")
    split = samples.sort("sample_id")["split"].to_numpy()
    assert (split == CALIBRATION).any()
    expected = np.where(split == CALIBRATION, TRAIN, split)
    for seed in range(2):
        assert (data.cohort(seed).split == expected).all()


def test_embedders_are_fitted_on_the_training_rows_of_the_split(data, tmp_path, folder):
    """Other inputs of the rows that are not trained on change no vector of the rest."""
    cohort = data.cohort(0)
    train = cohort.split == TRAIN
    strangers = {name for name, is_own in zip(cohort.sample_ids, train, strict=True) if not is_own}
    tables = hospital()
    for sample in tables["samples"]:
        if sample["stay_id"] in strangers:
            sample["age"] = sample["age"] + 30
    for event in tables["events"]:
        if event["stay_id"] in strangers:
            event["value"] = event["value"] + 1000
    tables_folder.write(tmp_path / "other", tables, COHORT)
    other = TablesData(tmp_path / "other", tmp_path / "cache")
    a = data.embedded(cohort)
    b = other.embedded(other.cohort(0))
    assert a.present["tabular"].all()
    assert a.present["timeseries"].all()
    assert not a.present["language"].any()
    assert (a.embeddings["tabular"][train] == b.embeddings["tabular"][train]).all()
    assert (a.embeddings["tabular"][~train] != b.embeddings["tabular"][~train]).any()
    series_a = data.with_series(a)
    series_b = other.with_series(b)
    assert list(series_a.embeddings) == ["tabular", "series", "language", "vision"]
    steps_a = series_a.embeddings["series"]
    steps_b = series_b.embeddings["series"]
    assert (steps_a[train] == steps_b[train]).all()
    assert (steps_a[~train] != steps_b[~train]).any()


def test_tasks_that_hang_together_are_near_twins(data):
    for name in ("death", "died_of_it", "place"):
        twins = {"death", "died_of_it", "place", "lactate_next"}
        assert data.near_twins(name) == twins - {name}
    assert data.near_twins("los") == {"lactate_next"}
    assert set(data.scarce_tasks) == {"death", "died_of_it", "los", "lactate_next"}


def test_tuned_trees_are_cross_fitted_and_a_task_of_one_kind_of_label_is_its_mean(monkeypatch):
    monkeypatch.setattr(task_arms, "SEARCH", task_arms.SEARCH[:2])
    monkeypatch.setattr(task_arms, "ROUNDS", 20)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    labels = {"level": x[:, 0] + rng.normal(size=400) / 4, "death": np.zeros(400)}
    cohort = Cohort(
        [str(i) for i in range(400)],
        rng.choice([TRAIN, VALID, TEST], 400, p=[0.6, 0.2, 0.2]),
        {"tabular": x},
        {"tabular": np.ones(400, bool)},
        labels,
        dict.fromkeys(labels, np.ones(400, bool)),
    )
    tasks = [TaskSpec("level", "regression", unit="mg"), TaskSpec("death", "binary")]
    predicted = task_arms.tuned_trees(n_folds=3).fit(cohort, tasks, 0)
    test = cohort.split == TEST
    assert np.corrcoef(predicted["level"][test], labels["level"][test])[0, 1] > 0.8
    assert (predicted["death"] == 0).all()


def test_a_patient_is_drawn_in_all_splits_or_in_none():
    n = 6
    cohort = Cohort(
        [f"s{i}" for i in range(n)],
        np.full(n, TEST),
        {},
        {},
        {},
        {},
        [f"p{i // 2}" for i in range(n)],
    )
    draws = draws_of(cohort, 20)
    in_one_split = draws.weights(np.array([0, 2]))
    in_another = draws.weights(np.array([1, 4]))
    assert (in_one_split[:, 0] == in_another[:, 0]).all()
    assert len(np.unique(in_one_split[:, 0])) > 1


def test_all_settings_come_out_and_the_second_run_fits_nothing(
    folder, cache, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(quality, "RESAMPLES", 50)
    monkeypatch.setattr(quality, "CURVE", (100,))
    monkeypatch.setattr(quality, "SCARCE_LABELS", (60, 20))
    kept = {name: quality.ABLATIONS[name] for name in ("no-attention", "stable-attention")}
    monkeypatch.setattr(quality, "ABLATIONS", kept)
    monkeypatch.setitem(config._RECURRENT, "hidden", (16,))
    options = ["--tables", folder, "--cache", cache, "--json", tmp_path / "all.json"]
    options += ["--splits", 2, "--epochs", 2, "--tasks", "death,lactate_next,place,copied"]
    networks = "joint,single,no-attention,stable-attention,recurrent,lightgbm-13"
    options += ["--arms", f"{networks},trees,joint+trees,joint+recurrent+trees,linear"]
    arguments = [str(part) for part in options]
    quality.main(arguments)
    first = capsys.readouterr()
    for part in (
        "## main",
        "## curve 100",
        "## curve, all rows",
        "## scarce",
        "## ablation",
        "| joint minus |",
        "| joint+trees minus |",
        "| joint+recurrent+trees minus |",
        "- copied: equals the ",
        "2 of 3 tasks have none",
    ):
        assert part in first.out
    assert "nan" not in first.out.split("left out", 1)[1]
    record = json.loads((tmp_path / "all.json").read_text())
    assert set(record["main"]["tasks"]["joint"]) == {"death", "lactate_next", "place"}
    assert set(record["main"]["joint+trees minus"]) == {
        "joint",
        "single",
        "no-attention",
        "stable-attention",
        "recurrent",
        "joint+recurrent",
        "trees",
        "joint+recurrent+trees",
        "lightgbm-13",
        "linear",
    }
    both = [record["main"]["cpu seconds"][name] for name in ("joint", "recurrent")]
    assert record["main"]["cpu seconds"]["joint+recurrent"] == pytest.approx(sum(both))
    assert record["main"]["tasks"]["linear"]["lactate_next"][0] > 0.5
    assert set(record["scarce"]["tasks"]["trees"]) == {"death", "lactate_next"}
    assert record["main"]["cpu seconds"]["joint"] > 0
    assert record["main"]["cpu seconds"]["stable-attention"] > 0
    settings = quality.arm_of("stable-attention", {}).settings
    assert (settings["attention"], settings["normalization"]) == (True, "stable")

    scores = read_scores(tmp_path / "all.json")
    # A run that was killed: some files are not there yet.
    for file in sorted(cache.glob("trees-*.npz"))[:3]:
        file.unlink()
    quality.main(arguments)
    second = capsys.readouterr()
    assert "\n3 fitted" in second.err
    assert read_scores(tmp_path / "all.json") == scores


def read_scores(file: Path) -> dict:
    """All numbers but the seconds."""
    record = json.loads(file.read_text())
    for part in record.values():
        part.pop("cpu seconds", None)
    return record


def test_what_cannot_be_judged_is_refused(folder, cache):
    common = ["--tables", str(folder), "--cache", str(cache), "--settings", "main"]
    with pytest.raises(SystemExit, match="there is no task sepsis"):
        quality.main([*common, "--tasks", "sepsis"])
    with pytest.raises(SystemExit, match=r"No task can be judged\. .*copied: equals"):
        quality.main([*common, "--tasks", "copied"])
    with pytest.raises(SystemExit, match="nowhere"):
        quality.main(["--tables", str(folder / "nowhere"), "--cache", str(cache)])
