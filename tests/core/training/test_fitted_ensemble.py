"""The model that is shipped: what it predicts, how it travels, what it says of files of another
kind.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import TASKS, make_cohort

from m3h_core import Cohort, EnsembleModel, FitConfig, FittedModel, load_model, with_folds
from m3h_core.config import recurrent_config
from m3h_core.ensemble.fold_models import FoldModels
from m3h_core.ensemble.mixture import FoldMixtures, Line, Mixture
from m3h_core.training.cross_fit import cross_fit, cross_fit_trees

pytestmark = pytest.mark.slow(8)
SUPERVISED_NAMES = [task.name for task in TASKS if task.problem != "clustering"]


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return with_folds(make_cohort(300), 3)


@pytest.fixture(scope="module")
def model(cohort) -> EnsembleModel:
    network = cross_fit(cohort, TASKS, FitConfig(hidden=(16,), members=1, epochs=3))
    trees = cross_fit_trees(cohort, TASKS, rounds=5, workers=1)
    return EnsembleModel.combine(network, trees, cohort)


def keep_first_fold(model: EnsembleModel) -> EnsembleModel:
    """A model as one without folds is."""
    return EnsembleModel(
        FoldModels(model.network.models[:1]),
        FoldModels(model.trees.models[:1]),
        FoldMixtures(model.mixtures.of_all),
    )


def test_it_predicts_the_weighted_mean_of_its_members(cohort, model):
    # Of the network, of both, of the trees: whatever the labels bore out.
    chosen = dict(zip(SUPERVISED_NAMES, (1, 0.3, 0, 0.5), strict=True)) | {"phenotype": 1}
    line = Line(centre=1.0, slope=1.5, target=2.0)
    mixture = Mixture(chosen, {"stay": line})
    model = replace(model, mixtures=FoldMixtures(mixture))
    network = model.network.predict(cohort)
    trees = model.trees.predict(cohort)
    for name, values in model.predict(cohort).items():
        share = chosen[name]
        expected = share * network[name] + (1 - share) * trees.get(name, network[name])
        if name == "stay":
            expected = line.apply(expected)
        np.testing.assert_allclose(values, expected)
    assert model.tasks == model.network.tasks
    assert set(model.evaluate(cohort, n_bootstrap=2)) == {task.name for task in TASKS}


def test_new_patients_get_the_mean_of_all_folds(cohort, model):
    by_fold = [one.predict(cohort) for one in model.network.models]
    predicted = model.network.predict(cohort)
    for name in SUPERVISED_NAMES:
        assert not np.array_equal(by_fold[0][name], by_fold[1][name])
        np.testing.assert_allclose(predicted[name], np.mean([v[name] for v in by_fold], axis=0))
    # The clusters of two models have nothing in common.
    np.testing.assert_array_equal(predicted["phenotype"], by_fold[0]["phenotype"])


def test_a_patient_of_the_cohort_is_judged_by_the_fold_s_members_and_shares(cohort, model):
    by_fold = ({"death": 0.9}, {"death": 0.1}, {"death": 0.6})
    of_all = model.mixtures.of_all
    mixtures = tuple(Mixture(of_all.shares | shares) for shares in by_fold)
    model = replace(model, mixtures=FoldMixtures(of_all, mixtures))
    predicted = model.predict_unseen(cohort)
    for fold in range(3):
        rows = cohort.rows_of_fold(fold)
        network = model.network.models[fold].predict(cohort)["death"]
        trees = model.trees.models[fold].predict(cohort)["death"]
        share = by_fold[fold]["death"]
        expected = share * network + (1 - share) * trees
        np.testing.assert_allclose(predicted["death"][rows], expected[rows])


def test_a_later_night_finds_each_patient_s_fold_again(cohort, model):
    """Of other patients in another order, without knowing of any folds."""
    rows = np.random.default_rng(0).permutation(len(cohort))[:100]
    part = replace(cohort.take(rows), fold=None)
    expected = model.predict_unseen(cohort)
    for task, values in model.predict_unseen(part).items():
        np.testing.assert_allclose(values, expected[task][rows], rtol=1e-5)


def test_it_travels_without_pickle_and_predicts_the_same(cohort, model, tmp_path):
    model.save(tmp_path)
    files = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {".json", ".safetensors", ".txt"}
    loaded = load_model(tmp_path)
    assert isinstance(loaded, EnsembleModel)
    assert loaded.mixtures == model.mixtures
    assert loaded.n_folds == 3
    for name in ("predict", "predict_unseen", "distances"):
        expected = getattr(model, name)(cohort)
        for task, values in getattr(loaded, name)(cohort).items():
            assert values.tobytes() == expected[task].tobytes()


def test_a_version_of_before_the_folds_is_read(cohort, model, tmp_path):
    """Format 1: one network and its trees, directly in their folders, and no lines."""
    shares = model.mixtures.of_all.shares
    single = replace(keep_first_fold(model), mixtures=FoldMixtures(Mixture(shares)))
    single.network.models[0].save(tmp_path / "network")
    single.trees.models[0].save(tmp_path / "trees")
    record = {"format": 1, "shares": dict(shares)}
    (tmp_path / "ensemble.json").write_text(json.dumps(record))
    loaded = load_model(tmp_path)
    assert isinstance(loaded, EnsembleModel)
    assert loaded.n_folds == 1
    expected = single.predict(cohort)
    for name in ("predict", "predict_unseen"):
        for task, values in getattr(loaded, name)(cohort).items():
            assert values.tobytes() == expected[task].tobytes()
    loaded.save(tmp_path / "again")
    again = load_model(tmp_path / "again")
    assert again.predict(cohort)["death"].tobytes() == expected["death"].tobytes()


@pytest.fixture(scope="module")
def with_recurrent(cohort, model) -> tuple[Cohort, EnsembleModel]:
    """The same members, and networks that read a series beside them; it has no clusters."""
    series = np.random.default_rng(0).normal(size=(len(cohort), 12)).astype(np.float32)
    cohort = replace(cohort, series=series)
    tasks = [task for task in TASKS if task.problem != "clustering"]
    config = recurrent_config(FitConfig(epochs=2), steps=4)
    recurrent = cross_fit(cohort.with_series(), tasks, config)
    return cohort, EnsembleModel.combine(model.network, model.trees, cohort, recurrent)


def test_both_kinds_of_networks_count_alike(with_recurrent):
    cohort, model = with_recurrent
    shares = dict.fromkeys((task.name for task in TASKS), 1.0)
    networks = replace(model, mixtures=FoldMixtures(Mixture(shares)))
    for name in ("predict", "predict_unseen"):
        of_statistics = getattr(model.network, name)(cohort)
        of_series = getattr(model.recurrent, name)(cohort.with_series())
        predicted = getattr(networks, name)(cohort)
        for task in SUPERVISED_NAMES:
            assert not np.allclose(of_statistics[task], of_series[task])
            expected = (of_statistics[task] + of_series[task]) / 2
            np.testing.assert_allclose(predicted[task], expected)
        np.testing.assert_array_equal(predicted["phenotype"], of_statistics["phenotype"])


def test_a_model_that_reads_series_travels_and_asks_for_them(with_recurrent, tmp_path):
    cohort, model = with_recurrent
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    expected = model.predict_unseen(cohort)
    for task, values in loaded.predict_unseen(cohort).items():
        assert values.tobytes() == expected[task].tobytes()
    with pytest.raises(ValueError, match="the cohort has no series"):
        loaded.predict(replace(cohort, series=None))


def test_a_version_of_before_the_recurrent_networks_is_read(cohort, model, tmp_path):
    model.save(tmp_path)
    about = json.loads((tmp_path / "ensemble.json").read_text())
    del about["recurrent"]
    (tmp_path / "ensemble.json").write_text(json.dumps(about | {"format": 2}))
    loaded = load_model(tmp_path)
    assert loaded.predict(cohort)["death"].tobytes() == model.predict(cohort)["death"].tobytes()


def test_a_network_alone_is_loaded_as_one(model, tmp_path):
    """As the versions that were registered before."""
    model.network.models[0].save(tmp_path)
    assert isinstance(load_model(tmp_path), FittedModel)


def test_a_later_format_is_refused(model, tmp_path):
    model.save(tmp_path)
    about = json.loads((tmp_path / "ensemble.json").read_text())
    (tmp_path / "ensemble.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ValueError, match="ensemble of format 99, this version reads 1 or 2 or 3"):
        load_model(tmp_path)
