"""The model that is shipped: what it predicts, how it travels, what it says of files of another
kind.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import TASKS, make_cohort

from m3h_core import Cohort, EnsembleModel, FitConfig, FittedModel, fit, load_model
from m3h_core.ensemble.trees import fit_trees

pytestmark = pytest.mark.slow(8)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_cohort(300)


@pytest.fixture(scope="module")
def model(cohort) -> EnsembleModel:
    network = fit(cohort, TASKS, FitConfig(hidden=(16,), members=1, epochs=3))
    return EnsembleModel.combine(network, fit_trees(cohort, TASKS, rounds=5, workers=1), cohort)


def test_it_predicts_the_weighted_mean_of_its_members(cohort, model):
    # Of the network, of both, of the trees: whatever the validation split bore out.
    shares = dict(zip(model.trees.tasks, (1, 0.3, 0), strict=False))
    model = replace(model, shares={**model.shares, **{t.name: s for t, s in shares.items()}})
    network = model.network.predict(cohort)
    trees = model.trees.predict(cohort)
    for name, values in model.predict(cohort).items():
        share = model.shares[name]
        expected = share * network[name] + (1 - share) * trees.get(name, network[name])
        np.testing.assert_allclose(values, expected)
    assert model.tasks == model.network.tasks
    assert set(model.evaluate(cohort, n_bootstrap=2)) == {task.name for task in TASKS}


def test_it_travels_without_pickle_and_predicts_the_same(cohort, model, tmp_path):
    model.save(tmp_path)
    files = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {".json", ".safetensors", ".txt"}
    loaded = load_model(tmp_path)
    assert isinstance(loaded, EnsembleModel)
    assert loaded.shares == dict(model.shares)
    for name in ("predict", "distances"):
        expected = getattr(model, name)(cohort)
        for task, values in getattr(loaded, name)(cohort).items():
            assert values.tobytes() == expected[task].tobytes()


def test_a_network_alone_is_loaded_as_one(model, tmp_path):
    """As the versions that were registered before."""
    model.network.save(tmp_path)
    assert isinstance(load_model(tmp_path), FittedModel)


def test_a_later_format_is_refused(model, tmp_path):
    model.save(tmp_path)
    about = json.loads((tmp_path / "ensemble.json").read_text())
    (tmp_path / "ensemble.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ValueError, match="ensemble of format 99, this version reads 1"):
        load_model(tmp_path)
