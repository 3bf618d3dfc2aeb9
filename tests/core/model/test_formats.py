"""Models that earlier versions have saved."""

import json

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
    model = fit(cohort, TASKS, SMALL)
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
    with pytest.raises(ValueError, match=r"model format 1, this version reads \(2, 3\)"):
        FittedModel.load(tmp_path)
