"""What is claimed of the model and of joint learning: paired with both others, counted once, text
the same everywhere.
"""

from __future__ import annotations

import html
import re
from dataclasses import replace

import numpy as np
import pytest
from report_example import example

from m3h_core import Cohort, TaskSpec, compare_predictions, with_folds
from m3h_core.data.cohort import TEST
from m3h_core.metrics import Resamples, interval, primary_metric, primary_replicates
from m3h_pipeline import wording
from m3h_pipeline.config import Config, SourceConfig
from m3h_pipeline.evaluation import claims
from m3h_pipeline.evaluation.quality import compare_arms
from m3h_pipeline.reports.page import write_report
from m3h_pipeline.reports.publish import _describe_limits
from m3h_pipeline.sources.tasks_file import limits_of, load_tasks

TASKS = [
    TaskSpec("death", "binary"),
    TaskSpec("shock", "binary"),
    TaskSpec("stay", "regression", unit="days"),
    TaskSpec("dose", "regression"),
    TaskSpec("phenotype", "clustering", classes=2),
    TaskSpec("rare", "binary"),
]
BOOTSTRAP = 100


@pytest.fixture(scope="module")
def arms() -> tuple[Cohort, dict[str, dict[str, np.ndarray]]]:
    """Two stays a patient. Trees know more of `stay`, less of `death`; `shock` is predicted alike
    by both networks.
    """
    rng = np.random.default_rng(0)
    n = 600
    signal = rng.normal(size=n)
    labels = {
        "death": (signal + rng.logistic(size=n) > 0).astype(float),
        "shock": (signal + rng.logistic(size=n) > 1).astype(float),
        "stay": signal + 0.3 * rng.normal(size=n),
        "dose": signal + rng.normal(size=n),
        "rare": (np.arange(n) < 5).astype(float),
    }
    cohort = Cohort(
        [str(i) for i in range(n)],
        np.full(n, TEST),
        {"tabular": signal[:, None]},
        {"tabular": np.ones(n, bool)},
        labels,
        dict.fromkeys(labels, np.ones(n, bool)),
        subject_ids=[str(i // 2) for i in range(n)],
    )
    clusters = np.eye(2)[(signal > 0).astype(int)]

    def predictions(noise: dict[str, float]) -> dict[str, np.ndarray]:
        return {name: signal + noise.get(name, 0.5) * rng.normal(size=n) for name in labels}

    shipped = {**predictions({"death": 0.1}), "phenotype": clusters}
    single_task = {**predictions({"death": 0.1}), "phenotype": clusters, "shock": shipped["shock"]}
    return cohort, {
        "ensemble": shipped,
        "joint": {**predictions({"death": 0.3}), "phenotype": clusters},
        "single_task": single_task,
        "trees": predictions({"death": 2.0, "stay": 0.05}),
    }


@pytest.fixture(scope="module")
def judged(arms) -> tuple[dict[str, dict], dict]:
    cohort, predictions = arms
    metrics, comparisons = compare_arms(
        cohort, TASKS, predictions, snapshot="2026-01-01", bootstrap=BOOTSTRAP
    )
    return {record["task"]: record for record in metrics["tasks"]}, comparisons


def test_differences_are_those_of_paired_resamples(arms, judged):
    cohort, predictions = arms
    records, _ = judged
    for against, field in claims.FIELDS.items():
        expected = compare_predictions(
            cohort, TASKS, predictions["ensemble"], predictions[against], TEST, BOOTSTRAP
        )
        for task in ("death", "shock", "stay", "dose"):
            actual = [records[task][f"{field}{end}"] for end in ("", "_low", "_high")]
            assert actual == [
                round(getattr(expected[task], name), 6) for name in ("value", "low", "high")
            ]
    assert records["death"]["trees_difference_low"] > 0
    expected = primary_metric(cohort, TASKS[0], predictions["joint"]["death"])
    assert records["death"]["joint"] == round(expected, 6) != records["death"]["value"]
    assert records["rare"]["joint"] is None
    assert records["stay"]["trees_difference_high"] < 0
    for name in ("trees", "trees_difference", "trees_difference_low", "trees_difference_high"):
        assert records["phenotype"][name] is None  # trees find no clusters
        assert records["rare"][name] is None  # too few to be claimed


def test_of_a_cross_fitted_cohort_every_sample_is_judged_and_clusters_by_one_fold(arms, judged):
    cohort, predictions = arms
    assert {record["evaluation"] for record in judged[0].values()} == {"test"}
    # Few are in the test split.
    folded = with_folds(replace(cohort, split=np.arange(len(cohort)) % 10 // 7 * 3), 3)
    assert (folded.split == TEST).sum() < len(folded) / 2
    metrics, _ = compare_arms(folded, TASKS, predictions, snapshot="2026-01-01", bootstrap=20)
    records = {record["task"]: record for record in metrics["tasks"]}
    assert {record["evaluation"] for record in records.values()} == {"cross-fitted"}
    for task in ("death", "shock", "stay", "dose"):
        assert records[task]["n"] == len(cohort)
        assert records[task]["low"] < records[task]["value"] < records[task]["high"]
    assert records["death"]["positives"] == cohort.labels["death"].sum()
    assert records["phenotype"]["n"] == (folded.fold == 0).sum()
    assert records["phenotype"]["claimed"]
    assert not records["rare"]["claimed"]


def test_counts_and_means_come_from_the_same_resamples(arms, judged):
    cohort, predictions = arms
    records, comparisons = judged
    draws = Resamples(cohort, TEST, BOOTSTRAP, seed=0)
    gaps = [
        primary_replicates(cohort, task, predictions["ensemble"][task.name], draws)
        - primary_replicates(cohort, task, predictions["trees"][task.name], draws)
        for task in TASKS[2:4]
    ]
    trees = comparisons["trees"]
    (r2,) = (mean for mean in trees["means"] if mean["metric"] == "R2")
    low, high = interval(np.mean(gaps, axis=0))
    assert (r2["tasks"], r2["low"], r2["high"]) == (2, round(low, 6), round(high, 6))
    assert r2["value"] == pytest.approx(
        (records["stay"]["trees_difference"] + records["dose"]["trees_difference"]) / 2, abs=1e-6
    )
    assert {mean["metric"]: mean["tasks"] for mean in trees["means"]} == {"AUROC": 2, "R2": 2}
    assert (trees["not_compared"], comparisons["single_task"]["not_compared"]) == (1, 0)
    for against, comparison in comparisons.items():
        verdicts = [
            claims.get_verdict(record, against) for record in records.values() if record["claimed"]
        ]
        assert {name: comparison[name] for name in claims.VERDICTS} == {
            n: verdicts.count(n) for n in claims.VERDICTS
        }
        assert claims.count_compared(comparison) + comparison["not_compared"] == 5


def test_predictions_that_are_the_same_are_no_interval(judged):
    records, comparisons = judged
    assert claims.get_verdict(records["shock"]) == "same"
    assert comparisons["single_task"]["same"] == 2  # the clusters are the same, too
    text = " ".join(claims.write_sentences(comparisons, list(records.values())))
    assert "; on 2 both scored the same in every resample." in text
    assert "0.000 to 0.000" not in text


def test_every_score_goes_to_mlflow(judged):
    records, comparisons = judged
    logged = claims.to_metrics(list(records.values()), comparisons)
    assert logged["stay.R2.minus_trees.high"] == records["stay"]["trees_difference_high"]
    assert logged["death.AUROC.minus_single_task.low"] == records["death"]["difference_low"]
    assert logged["model_minus_trees.tasks_worse"] == comparisons["trees"]["worse"] >= 1
    assert logged["model_minus_trees.R2.low"] == comparisons["trees"]["means"][1]["low"]
    assert not any(name.startswith("rare.") for name in logged)
    assert all(re.fullmatch(r"[/\w.\- ]{1,250}", name) for name in logged)  # what MLflow takes


@pytest.mark.slow(3)
def test_the_first_screen_says_where_trees_are_better(tmp_path):
    data = example()
    write_report(data, tmp_path)
    page = (tmp_path / "report.html").read_text()
    summary = re.sub(
        r"<[^>]+>", " ", html.unescape(page.partition('id="summary"')[2].partition("</section>")[0])
    )
    tasks = [task for task in data["metrics"]["tasks"] if task["claimed"]]
    verdicts = [claims.get_verdict(task, "trees") for task in tasks]
    better, worse, unclear = (verdicts.count(name) for name in ("better", "worse", "unclear"))
    assert min(better, worse) > 0
    assert (
        f"better on {better}, worse on {worse}, and showed no clear difference on {unclear}; 1 "
        "could not" in summary
    )
    gaps = [
        task["trees_difference"] for task in tasks if task["problem"] in ("binary", "multiclass")
    ]
    mean = wording.format_number(float(np.mean(gaps)), sign=True)
    assert f"Model minus boosted trees alone, on average: {mean} (" in summary
    worst = min(
        (task for task in tasks if task["trees"]), key=lambda task: task["trees_difference"]
    )
    assert f"Trees are better on {wording.format_name(worst['task'])} (" in summary


def test_a_limit_is_said_only_where_it_holds(arms):
    """Nothing of coded diagnoses where a hospital's own tables hold none."""
    cohort, _ = arms
    names = ("tabular", "timeseries", "language", "vision")
    nothing = np.zeros((len(cohort), 1))
    cohort = replace(
        cohort,
        embeddings=dict.fromkeys(names, nothing),
        present=dict.fromkeys(names, np.zeros(len(cohort), bool)),
    )
    config = Config(source=SourceConfig(name="tables"))
    assert not [
        limit for limit in _describe_limits(config, cohort, False, []) if "diagnosis" in limit
    ]
    coded = load_tasks(only={"gout"})
    uncoded = load_tasks(only={"length_of_stay"})
    assert [len(limits_of(rules)) for rules in (coded, uncoded)] == [1, 0]
