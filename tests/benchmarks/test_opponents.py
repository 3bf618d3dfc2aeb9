"""The benchmark against opponents: what leaves for their environment, what comes back, and that a
run goes on where it was. Of the opponents the one that the main environment can fit is fitted.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import opponents
import pytest
import tables_folder
from test_quality_tables import COHORT, hospital

from m3h_core import TaskSpec
from m3h_core.data.cohort import TEST, TRAIN, VALID
from opponent_models import protocol, run
from opponent_models.models import Opponent
from opponent_models.protocol import Fit
from quality_study.opponents import MODEL, Predicted, summarize
from quality_study.tables import TablesData

pytestmark = pytest.mark.slow(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tables_folder.write(tmp_path_factory.mktemp("hospital"), hospital(), COHORT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(folder, cache) -> TablesData:
    return TablesData(folder, cache)


@pytest.fixture(scope="module")
def part(data) -> opponents.Part:
    return next(opponents.parts_of(data, 1, ["all"]))


def test_twelve_tasks_are_spread_evenly():
    tasks = [TaskSpec(f"t{i:02}", "binary" if i % 2 else "regression") for i in range(23)]
    names = [task.name for task in opponents.judged_tasks(tasks)]
    assert names[:6] == ["t01", "t05", "t09", "t13", "t17", "t21"]
    assert names[6:] == ["t02", "t06", "t10", "t14", "t18", "t22"]
    assert len(opponents.judged_tasks(tasks[:5])) == 5


def test_labels_of_test_rows_do_not_leave(data, part, tmp_path):
    cohort = part.cohort
    file = opponents.export(part, data.tasks, tmp_path)
    for task in data.tasks:
        parts = protocol.read_cohort(file, task.name)
        seen = np.isin(cohort.split, (TRAIN, VALID)) & cohort.labelled[task.name]
        assert (np.isfinite(parts["y"]) == seen).all()
        assert (parts["y"][seen] == cohort.labels[task.name][seen]).all()
        assert (parts[protocol.TEST] == (cohort.split == TEST)).all()
    assert opponents.export(part, data.tasks, tmp_path) == file


def test_inputs_have_no_gaps_and_no_constant_columns(part):
    x = opponents.inputs_of(part.cohort)
    train = part.cohort.split == TRAIN
    assert np.isfinite(x).all()
    assert (np.ptp(x[train], axis=0) > 0).all()
    # The hospital has no notes and no images.
    present = [name for name in ("tabular", "timeseries") if part.cohort.present[name].all()]
    assert x.shape[1] <= sum(part.cohort.widths[name] for name in present)


def a_fit(tmp_path: Path, opponent: str, seconds: float, y: np.ndarray) -> Fit:
    n = len(y)
    rows = {
        protocol.TRAIN: np.arange(n) < 6,
        protocol.VALID: (np.arange(n) >= 6) & (np.arange(n) < 9),
        protocol.TEST: np.arange(n) >= 9,
    }
    protocol.write_cohort(tmp_path / "cohort.npz", np.ones((n, 2)), rows, {"los": y})
    to = str(tmp_path / "prediction.npz")
    return Fit(opponent, str(tmp_path / "cohort.npz"), "los", "regression", 2, 0, seconds, to)


def test_a_fit_beyond_its_cpu_seconds_is_ended(tmp_path, monkeypatch, capfd):
    def burn(rows):
        while True:
            pass

    monkeypatch.setitem(run.OPPONENTS, "burner", Opponent(burn, ()))
    fit = a_fit(tmp_path, "burner", 1, np.arange(12.0))
    run.make_apart(fit)
    assert "cohort burner los: ended at 1 CPU seconds" in capfd.readouterr().err
    assert not Path(fit.to).exists()


def test_the_clock_of_a_fit_counts_cpu_seconds(tmp_path, monkeypatch, capfd):
    def sleep(rows):
        started = time.time()
        time.sleep(1)
        return np.full(len(rows.x_test), time.time() - started)

    monkeypatch.setitem(run.OPPONENTS, "sleeper", Opponent(sleep, ()))
    fit = a_fit(tmp_path, "sleeper", 60, np.arange(12.0))
    run.make_apart(fit)
    prediction, seconds = protocol.read_prediction(Path(fit.to))
    assert prediction.shape == (3,)
    assert (prediction < 0.5).all()
    assert seconds < 0.5


def test_a_failure_is_told_and_leaves_no_file(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(
        run.OPPONENTS, "gaps", Opponent(lambda rows: np.full(len(rows.x_test), np.nan), ())
    )
    fit = a_fit(tmp_path, "gaps", 60, np.arange(12.0))
    run.make_apart(fit)
    errors = capfd.readouterr().err
    assert "a prediction is no number" in errors
    assert "cohort gaps los: failed" in errors
    assert not Path(fit.to).exists()


def test_labels_that_are_all_the_same_are_predicted(tmp_path, capfd):
    fit = a_fit(tmp_path, "stack", 60, np.full(12, 3.0))
    run.make_apart(fit)
    prediction, _ = protocol.read_prediction(Path(fit.to))
    assert (prediction == 3).all()


def test_an_arm_is_compared_on_the_tasks_that_it_predicts(data):
    cohort = data.cohort(0)
    rng = np.random.default_rng(0)
    tasks = [task for task in data.tasks if task.problem != "multiclass"]
    own = {task.name: np.nan_to_num(cohort.labels[task.name]) for task in tasks}
    other = {name: values + rng.normal(size=len(values)) for name, values in own.items()}
    del other["los"]
    predicted = Predicted()
    predicted.add(0, {MODEL: own, "other": other}, {MODEL: [1.0], "other": [2.0, 4.0]})
    record = summarize(predicted, {0: cohort}, tasks)
    assert set(record["arms"]["other"]["tasks"]) == {"death", "died_of_it", "lactate_next"}
    assert record["arms"]["other"]["groups"]["all"]["tasks"] == 3
    assert record["arms"]["other"]["cpu seconds a fit"] == 3
    assert record["arms"]["other"]["better_fdr"] == 3
    value, low, high = record["arms"]["other"]["groups"]["AUROC"]["model minus"]
    assert 0 < low < value < high


def test_tables_come_out_and_the_second_run_fits_nothing(
    data, folder, cache, tmp_path, capfd, monkeypatch
):
    # A binary task, a number and one of several classes.
    monkeypatch.setattr(opponents, "N_TASKS", 3)
    judged = [task.name for task in opponents.judged_tasks(data.tasks)]
    assert judged == ["death", "place", "los"]
    options = ["--tables", folder, "--cache", cache, "--json", tmp_path / "all.json"]
    options += ["--splits", 1, "--rows", "all", "--folds", 0, "--python", sys.executable]
    options += ["--opponents", "stack,catboost,tabpfn"]
    arguments = [str(part) for part in options]
    opponents.main([*arguments, "--no-fit"])
    assert "## " not in capfd.readouterr().out
    opponents.main(arguments)
    first = capfd.readouterr()
    assert "## all training rows, 1 split\n" in first.out
    assert "tabpfn is left out: no file of its weights, --tabpfn-checkpoint." in first.out
    assert "tabpfn is left out: no file of its weights, --tabpfn-checkpoint." in first.err
    assert f"catboost is left out: {sys.executable} has no module catboost." in first.err
    assert first.err.count(": fitted\n") == len(judged)
    record = json.loads((tmp_path / "all.json").read_text())
    for by_rows in record.values():
        assert set(by_rows["arms"]) == {MODEL, "trees", "networks", "stack"}
        assert set(by_rows["arms"]["stack"]["tasks"]) == set(judged)
    assert record["all training rows"]["arms"]["stack"]["tasks"]["los"] > 0.1
    assert record["all training rows"]["arms"]["stack"]["tasks"]["place"] > 0.6

    next((cache / "opponents").glob("stack-los-*.npz")).unlink()
    opponents.main([*arguments, "--no-fit"])
    opponents.main(arguments)
    second = capfd.readouterr()
    assert second.err.count(": fitted\n") == 1
    again = json.loads((tmp_path / "all.json").read_text())
    assert scores_of(again) == scores_of(record)


def scores_of(record: dict) -> dict:
    """All numbers but the seconds."""
    for by_rows in record.values():
        for arm in by_rows["arms"].values():
            del arm["cpu seconds a fit"], arm["most cpu seconds"]
    return record


def test_what_cannot_be_done_is_refused(folder, cache, tmp_path, capsys):
    common = ["--tables", str(folder), "--cache", str(tmp_path)]
    with pytest.raises(SystemExit):
        opponents.main([*common, "--opponents", "oracle"])
    assert "unknown: oracle" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        opponents.main([*common, "--tabicl-checkpoint", str(tmp_path / "nowhere.ckpt")])
    assert "--tabicl-checkpoint: there is no file" in capsys.readouterr().err
    options = ["--tables", str(folder), "--cache", str(cache), "--splits", "1", "--rows", "120"]
    with pytest.raises(SystemExit, match="`make opponents` makes it"):
        opponents.main([*options, "--opponents", "stack", "--python", str(tmp_path / "none")])
