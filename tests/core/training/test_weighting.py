"""How tasks are weighed as they are learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SMALL, SUPERVISED, TASKS, Killed, assert_same, make_cohort

from m3h_core import FitConfig, FittedModel, TaskSpec, fit, fit_many
from m3h_core.training.prepared import Prepared
from m3h_core.training.trainer import Trainer
from m3h_core.training.weighting import by_uncertainty

UNCERTAIN = replace(SMALL, weighting="uncertainty")


@pytest.fixture(scope="module")
def cohort():
    return make_cohort()


@pytest.fixture(scope="module")
def noisy(cohort):
    """Two tasks of one cause, one of them nearly all noise; a third has no label."""
    rng = np.random.default_rng(1)
    labels = {
        "clean": cohort.labels["stay"],
        "noisy": cohort.labels["stay"] + 50 * rng.normal(size=len(cohort)),
    }
    labels["never"] = np.full(len(cohort), np.nan)
    return replace(
        cohort,
        labels=labels,
        labelled={name: np.isfinite(values) for name, values in labels.items()},
    )


def _biases(model: FittedModel) -> torch.Tensor:
    return model.model.network.heads.bias


def _killed_and_resumed(cohort, tasks, config, folder):
    def kill(report):
        if report["epoch"] == 4:
            raise Killed

    with pytest.raises(Killed):
        fit(cohort, tasks, config, on_epoch=kill, resume=folder)
    epochs = []
    model = fit(
        cohort, tasks, config, on_epoch=lambda report: epochs.append(report["epoch"]), resume=folder
    )
    assert epochs[0] > 0
    return model


def test_the_likelihood_is_that_of_the_paper():
    loss = torch.tensor([[[3.0, 5.0]]])
    s = torch.tensor([[0.5, -1.0]])
    weighted = by_uncertainty(loss, torch.tensor([[[1.0, 0.0]]]), s, torch.tensor([[False, True]]))
    expected = torch.tensor(
        [3.0 / (2 * np.exp(0.5)) + 0.5 / 2, 5.0 / np.exp(-1.0)], dtype=torch.float32
    )
    torch.testing.assert_close(weighted[0, 0], expected)


def test_a_noisy_task_is_weighed_down_and_one_without_labels_left_alone(noisy):
    tasks = [TaskSpec(name, "regression") for name in ("clean", "noisy", "never")]
    config = replace(UNCERTAIN, epochs=30, patience=99)
    prepared = Prepared.of(noisy, tasks, config)
    trainer = Trainer(prepared, [prepared.new_model(tasks, config)])
    trainer.run()
    clean, noise, never = trainer.state.weighting.log_variance.detach().mean(0).tolist()
    assert clean < -0.5
    assert noise > clean + 0.3
    assert never == 0


def test_uncertainty_learns_and_repeats_itself(cohort):
    model = fit(cohort, TASKS, UNCERTAIN)
    assert_same(model, fit(cohort, TASKS, UNCERTAIN))
    assert not any("log_variance" in name for name in model.model.state_dict())
    assert not torch.equal(_biases(model), _biases(fit(cohort, TASKS, SMALL)))
    scores = model.evaluate(cohort, n_bootstrap=20)
    assert scores["death"].value > 0.8
    assert scores["stay"].value > 0.8


def test_uncertainty_resumes_where_it_was(cohort, tmp_path):
    resumed = _killed_and_resumed(cohort, SUPERVISED, UNCERTAIN, tmp_path)
    assert_same(resumed, fit(cohort, SUPERVISED, UNCERTAIN))


def test_uncertainty_in_one_wide_model_equals_looped_fits(cohort):
    """Each model learns its own variances; some stop early and leave."""
    config = replace(UNCERTAIN, precision="float64", epochs=30, patience=2, learning_rate=0.02)
    jobs = [
        (list(tasks), config)
        for tasks in (SUPERVISED[:2], SUPERVISED[1:3], [SUPERVISED[0], SUPERVISED[2]])
    ]
    for (tasks, _), model in zip(jobs, fit_many(cohort, jobs), strict=True):
        for name, value in fit(cohort, tasks, config).model.state_dict().items():
            torch.testing.assert_close(model.model.state_dict()[name], value, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("wrong", ["fair", "upgrad"])
def test_a_weighting_that_is_none_is_refused(wrong):
    with pytest.raises(
        ValueError, match=f"weighting '{wrong}' is not one of equal, uncertainty"
    ) as refused:
        FitConfig(weighting=wrong)
    assert ("was removed" in str(refused.value)) == (wrong == "upgrad")
