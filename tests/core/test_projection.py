"""Principal components in place of the inputs."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import make_cohort

from m3h_core import Cohort
from m3h_core.data.cohort import TRAIN
from m3h_core.data.projection import project_inputs
from m3h_core.data.silhouette import standardize_modalities


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_cohort(300)


def test_components_keep_most_of_the_distances_and_look_alike(cohort):
    projected = project_inputs(cohort, 6)
    components = projected.embeddings["components"]
    assert components.shape == (300, 6)
    inputs = np.hstack(list(standardize_modalities(cohort).values()))
    train = cohort.split == TRAIN
    exact = np.linalg.svd(inputs[train] - inputs[train].mean(0), compute_uv=False)[:6]
    kept = np.linalg.svd(components[train] - components[train].mean(0), compute_uv=False)
    np.testing.assert_allclose(kept, exact, rtol=0.1)  # flags of missing modalities count too
    spread = components[train].std(0)
    assert spread.max() / spread.min() < exact[0] / exact[-1]


def test_other_splits_have_no_part_in_it(cohort):
    changed = {name: values.copy() for name, values in cohort.embeddings.items()}
    for values in changed.values():
        values[cohort.split != TRAIN] *= 3
    train = cohort.split == TRAIN
    before, after = (
        project_inputs(some, 6).embeddings["components"][train]
        for some in (cohort, replace(cohort, embeddings=changed))
    )
    np.testing.assert_array_equal(before, after)


def test_few_inputs_stay_as_they_are(cohort):
    assert project_inputs(cohort, 10_000).widths == cohort.widths
