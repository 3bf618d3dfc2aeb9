"""Models that earlier versions have saved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import SMALL, TASKS, assert_same, make_cohort

from m3h_core import FittedModel, fit
from m3h_core.files import read_tensors, write_tensors
from m3h_core.model.formats import _FORMAT_2


def _to_format_2(state: dict[str, torch.Tensor], tasks: int) -> dict[str, torch.Tensor]:
    """As the code before the modules wrote it."""
    old_names = {new: old for old, new in _FORMAT_2.items()}
    old = {}
    for name, value in state.items():
        *path, last = name.split(".")
        if "layers" in path:
            old[f"trunk_{int(path[-1]) + 1}_{last}"] = value
        elif "centres" in path:
            old[f"centres_{last}"] = value[0]
        elif "maps" in path:
            old[old_names[name]] = value.unflatten(1, (tasks, -1))
        else:
            old[old_names[name]] = value
    return old


def test_a_model_of_format_2_is_the_same_model(tmp_path):
    cohort = make_cohort()
    # The form of attention that such models have.
    model = fit(cohort, TASKS, replace(SMALL, normalization="stable"))
    model.save(tmp_path)
    file = tmp_path / "model.safetensors"
    state, _ = read_tensors(file)
    old = _to_format_2(state, len(TASKS))
    assert {"first_weight", "member_scale", "trunk_1_bias", "map_weight", "centres_4"} <= old.keys()
    assert old["map_weight"].shape == (SMALL.members, len(TASKS), SMALL.width, SMALL.hidden[-1])
    write_tensors(file, old, {"format": 2})
    about = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(about | {"format": 2}))
    loaded = FittedModel.load(tmp_path)
    assert_same(model, loaded)
    for name, values in model.predict(cohort).items():
        np.testing.assert_array_equal(loaded.predict(cohort)[name], values)


def test_a_format_that_no_version_has_written_is_refused(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="network of format 1, this version reads 2 or 3"):
        FittedModel.load(tmp_path)


def _save_as_before(model: FittedModel, folder: Path, **changes: object) -> None:
    """As the code wrote it that still had fields which were removed."""
    model.save(folder)
    about = json.loads((folder / "model.json").read_text())
    about["config"] |= {"residual": False, "input_dropout": 0.0} | changes
    (folder / "model.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    "changes", [{}, {"input_dropout": 0.5}, {"weighting": "upgrad"}, {"weighting": "uncertainty"}]
)
def test_a_model_saved_with_removed_fields_predicts_the_same(tmp_path, changes):
    cohort = make_cohort()
    model = fit(cohort, TASKS, replace(SMALL, epochs=2))
    _save_as_before(model, tmp_path, **changes)
    loaded = FittedModel.load(tmp_path)
    assert_same(model, loaded)
    expected = "uncertainty" if changes.get("weighting") == "uncertainty" else "equal"
    assert loaded.config == replace(model.config, weighting=expected)
    for name, values in model.predict(cohort).items():
        np.testing.assert_array_equal(loaded.predict(cohort)[name], values)


def test_a_network_of_a_removed_form_is_refused_by_name(tmp_path):
    model = fit(make_cohort(), TASKS, replace(SMALL, epochs=1))
    _save_as_before(model, tmp_path, residual=True)
    with pytest.raises(ValueError, match=r"residual = True was removed: .*decisions/0027"):
        FittedModel.load(tmp_path)
