"""The principal components that a clustering task reconstructs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SMALL, TASKS, make_cohort

from m3h_core.data.cohort import TRAIN, VALID
from m3h_core.data.training_data import TrainingData, _components

WIDTHS = {"a": 30, "b": 10}


@pytest.mark.parametrize("rows", [200, 25, 8], ids=["tall", "wide", "fewer than components"])
def test_they_are_the_leading_ones_of_the_training_rows(rows):
    draw = torch.Generator().manual_seed(0)
    # The last two columns are the flags of missing modalities: no part of it.
    x = torch.randn(rows, 42, generator=draw) * torch.linspace(3, 0.1, 42)
    x_valid = torch.randn(50, 42, generator=draw)
    components_Cn, components_Cm = (
        part.double().numpy() for part in _components(x, x_valid, WIDTHS, count=16)
    )
    assert components_Cn.shape == (16, rows)
    assert components_Cm.shape == (16, 50)

    weights = np.repeat([30**-0.5, 10**-0.5], [30, 10])
    centred = (x[:, :40].double().numpy() - x[:, :40].double().numpy().mean(0)) * weights
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    real = min(16, rows - 1)
    scale = np.sqrt((values[:real] ** 2).mean() / rows)
    expected_Cn = (left[:, :real] * values[:real] / scale).T
    signs = np.sign((components_Cn[:real] * expected_Cn).sum(1, keepdims=True))
    np.testing.assert_allclose(components_Cn[:real] * signs, expected_Cn, atol=1e-5)
    centred_valid = x_valid[:, :40].double().numpy() - x[:, :40].double().numpy().mean(0)
    expected_Cm = right[:real] @ (centred_valid * weights).T / scale
    np.testing.assert_allclose(components_Cm[:real] * signs, expected_Cm, atol=1e-4)
    assert not components_Cn[real:].any()
    assert not components_Cm[real:].any()


@pytest.mark.parametrize(("train", "valid"), [(30, 0), (5, 5), (2, 3)])
def test_few_rows_and_none_to_validate_by(train, valid):
    cohort = make_cohort(60)
    split = np.full_like(cohort.split, 2)
    split[:train] = TRAIN
    split[train : train + valid] = VALID
    data = TrainingData.of(replace(cohort, split=split), TASKS, SMALL)
    assert data.components.shape == (SMALL.cluster_components, train)
    assert data.valid_components.shape == (SMALL.cluster_components, valid)
    assert data.components.isfinite().all()
