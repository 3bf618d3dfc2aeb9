"""Made-up results of evaluation: a task's record in metrics.json, and detail.json."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from m3h_pipeline.evaluation import claims
from m3h_pipeline.evaluation.curves import find_operating_points

METRIC = {
    "binary": "AUROC",
    "multiclass": "macro AUROC",
    "regression": "R2",
    "clustering": "silhouette",
}


def build_task(
    rng: np.random.Generator, k: int, spec: dict[str, Any], full: bool
) -> dict[str, Any]:
    value = rng.uniform(0.66, 0.93)
    width = rng.uniform(0.015, 0.06)
    if spec["problem"] in ("regression", "clustering"):
        value = rng.uniform(0.15, 0.4)
    difference = rng.normal(0.012, 0.02)
    spread = rng.uniform(0.008, 0.03)
    if spec["problem"] == "regression":
        difference = 0.11
        spread = 0.2
    n = int(rng.integers(180, 208))
    positives = int(rng.integers(12, 90))
    claimed = full or k % 6 != 3
    if full:
        n = 5000
        positives = 20 * positives
    scores = {
        "value": value,
        "low": value - width,
        "high": value + width,
        "joint": value - 0.01,
        "single_task": value - difference,
        "trees": None if k == 43 else value - rng.normal(0.005, 0.03),
        "difference": difference,
        "difference_low": difference - spread,
        "difference_high": difference + spread,
    }
    gap = None if scores["trees"] is None else value - scores["trees"]
    scores["trees_difference"] = gap
    scores["trees_difference_low"] = None if gap is None else gap - spread
    scores["trees_difference_high"] = None if gap is None else gap + spread
    record = {
        "task": spec["name"],
        "problem": spec["problem"],
        "department": spec["department"],
        "metric": METRIC[spec["problem"]],
        "n": n,
        "positives": positives if claimed and spec["problem"] == "binary" else None,
        "claimed": claimed,
        "reason": "fewer than 10 positives or negatives to judge by",
    }
    if claimed:
        record["reason"] = None
    for name, score in scores.items():
        record[name] = round(score, 6) if claimed and score is not None else None
    return record


def build_detail(
    rng: np.random.Generator, tasks: list[dict[str, Any]], full: bool
) -> dict[str, Any]:
    """As detail.json: curves of every claimed task, 15 subsets of the modalities, six groups, four
    phenotypes.
    """
    claimed = [task for task in tasks if task["claimed"]]

    names = ("tabular", "timeseries", "language", "vision")
    adds = dict(zip(names, (0.004, 0.09, 0.05, 0.02), strict=True))
    judged = [
        {"task": task["task"], **_contrast(rng.normal(0, 0.03))}
        for task in claimed
        if task["problem"] == "binary"
    ]
    groups = [
        ("sex", "F"),
        ("sex", "M"),
        ("race", "ASIAN"),
        ("race", "WHITE"),
        ("insurance", "Medicare"),
    ]
    groups += [("race", f"ORIGIN {k}") for k in range(35 if full else 0)]
    return {
        "comparisons": {
            against: claims.summarize_comparison(tasks, against, _average_gaps(tasks, field))
            for against, field in claims.FIELDS.items()
        },
        "curves": {
            task["task"]: _build_curves(rng, task["problem"], 5000 if full else 400)
            for task in claimed
            if task["problem"] in ("binary", "regression")
        },
        "modalities": {
            "tasks": 34,
            "subsets": [
                _describe_subset(subset)
                for size in (4, 3, 2, 1)
                for subset in combinations(names, size)
            ],
            "adds": {name: _contrast(value) for name, value in adds.items()},
            "by_task": [
                {"task": task["task"], "adds": _draw_additions(rng, adds)} for task in claimed
            ],
        },
        "subgroups": [
            {"attribute": a, "group": g, "n": 90, **_contrast(0.01), "tasks": judged}
            for a, g in groups
        ]
        + [{"attribute": "race", "group": "OTHER", "n": None, "tasks": []}],
        "phenotypes": [build_phenotypes()],
    }


def _contrast(difference: float) -> dict[str, float]:
    return {
        "value": 0.8,
        "low": 0.77,
        "high": 0.83,
        "others": 0.8 - difference,
        "difference": difference,
        "difference_low": difference - 0.02,
        "difference_high": difference + 0.02,
    }


def _draw_additions(
    rng: np.random.Generator, additions: dict[str, float]
) -> dict[str, dict[str, float]]:
    """What each modality adds to one task, around what it adds to all."""
    return {name: _contrast(rng.normal(value, 0.02)) for name, value in additions.items()}


def _describe_subset(subset: tuple[str, ...]) -> dict[str, Any]:
    retrained = {"value": 0.7, "low": 0.65, "high": 0.75}
    return {
        "modalities": list(subset),
        "n": 200,
        "value": 0.6 + 0.05 * len(subset),
        "low": 0.58,
        "high": 0.85,
        "retrained": retrained if len(subset) < 4 else None,
    }


def build_phenotypes(reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    """The verdict on a clustering task: clusters are phenotypes unless there are reasons."""
    return {
        "task": "phenotype",
        "found": not reasons,
        "reasons": list(reasons),
        "silhouette": 0.12,
        "kmeans": 0.125,
        "difference": -0.005,
        "low": -0.01,
        "high": 0.001,
        "stability": 0.87,
        "nulls": {
            "permuted": {"mean": 0.021, "high": 0.033},
            "correlated": {"mean": 0.047, "high": 0.051},
        },
        "clusters": [] if reasons else _build_clusters(),
    }


def _build_clusters() -> list[dict[str, Any]]:
    """One cluster of which something is told, one of which nothing is, one that is too small."""
    numbers = {
        "q": 0.001,
        "inside": 0.4,
        "outside": 0.2,
        "difference": 0.2,
        "low": 0.1,
        "high": 0.3,
    }
    enriched = [{"task": name, **numbers} for name in ("sepsis", "heart_failure")]
    return [
        {"cluster": 0, "n": 105, "compared": 42, "differs": 7, "enriched": enriched},
        {"cluster": 1, "n": 40, "compared": 42, "differs": 0, "enriched": []},
        {"cluster": 2, "n": None, "compared": 0, "differs": 0, "enriched": []},
    ]


def _average_gaps(tasks: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The mean difference by metric, with a made-up interval."""
    means = []
    for metric in ("AUROC", "R2", "silhouette"):
        gaps = [
            task[field]
            for task in tasks
            if claims.get_metric_family(task["metric"]) == metric and task[field]
        ]
        if gaps:
            mean = float(np.mean(gaps))
            means.append(
                {
                    "metric": metric,
                    "tasks": len(gaps),
                    "value": mean,
                    "low": mean - 0.01,
                    "high": mean + 0.01,
                }
            )
    return means


def _build_curves(rng: np.random.Generator, problem: str, samples: int) -> dict[str, Any]:
    y_score = rng.beta(1, 3, samples)
    is_positive = rng.random(samples) < y_score
    if problem == "regression":
        bins = [
            {"predicted": v, "observed": v + 0.3, "low": v - 1, "high": v + 1.5}
            for v in np.linspace(2, 20, 10)
        ]
        return {"unit": "days", "bins": bins}
    points = find_operating_points(is_positive, y_score)
    ends = {
        f"{name}_{end}": 0.5
        for name in ("sensitivity", "specificity", "ppv", "npv")
        for end in ("low", "high")
    }
    bins = [
        {"predicted": v, "observed": v, "low": v - 0.05, "high": v + 0.05}
        for v in np.linspace(0.05, 0.9, 10)
    ]
    return {
        "prevalence": float(is_positive.mean()),
        "bins": bins,
        "points": points,
        "thresholds": [{"rule": "find 80% of them", **points[len(points) // 2], **ends}],
    }
