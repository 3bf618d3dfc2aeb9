"""Made-up results of the 44 tasks, of the size and shape that a real run gives."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from m3h_pipeline.evaluation import claims
from m3h_pipeline.evaluation.curves import operating_points

TASKS = Path(__file__).parents[2] / "data_contracts" / "tasks.yaml"
# Table, file, outcome, reason, rows.
LINEAGE = [
    ("samples", "hosp/admissions.csv.gz", "kept", None, 1_391),
    ("samples", "hosp/patients.csv.gz", "kept", None, 1_209),
    ("samples", "hosp/admissions.csv.gz", "out_of_scope", "ended before the prediction time", 104),
    ("samples", "hosp/admissions.csv.gz", "quarantined", "discharge before admission", 5),
    ("events", "hosp/labevents.csv.gz", "kept", None, 391_404),
    ("events", "hosp/labevents.csv.gz", "out_of_scope", "code not in signals.yaml", 20_344),
    ("events", "hosp/labevents.csv.gz", "out_of_scope", "no stay at that time", 3_120),
    ("events", "hosp/labevents.csv.gz", "quarantined", "value_in_range", 212),
    ("events", "hosp/labevents.csv.gz", "quarantined", "parses", 40),
    ("notes", "note/radiology.csv.gz", "kept", None, 2_713),
    ("notes", "note/radiology.csv.gz", "quarantined", "text_not_empty", 9),
    ("images", "cxr/metadata.csv.gz", "kept", None, 1_201),
    ("images", "cxr/metadata.csv.gz", "quarantined", "file_exists", 4),
    ("labels", "hosp/diagnoses_icd.csv.gz", "kept", None, 59_813),
]
METRIC = {
    "binary": "AUROC",
    "multiclass": "macro AUROC",
    "regression": "R2",
    "clustering": "silhouette",
}


def example(tim_tasks: int = 8, seed: int = 0, full: bool = False) -> dict[str, Any]:
    """What `write_report` takes: 36 of 44 tasks claimed, one of them unscored by the trees.

    ``full``: of a large hospital: all claimed, 5,000 test samples, 40 subgroups, 300 inputs
    compared.
    """
    rng = np.random.default_rng(seed)
    tasks = [
        _task(rng, k, spec, full)
        for k, spec in enumerate(yaml.safe_load(TASKS.read_text())["tasks"])
    ]
    return {
        "title": "M3H report",
        "source": "demo: a synthetic hospital in MIMIC-IV's layout, 1,500 stays",
        "synthetic": True,
        "snapshot": "2026-11-01",
        "model": {
            "name": "m3h",
            "version": "3",
            "run_url": "http://127.0.0.1:5000/#/experiments/1/runs/abc",
        },
        "cohort": {
            "samples": 1391,
            "subjects": 1204,
            "splits": {"train": 838, "valid": 207, "calibration": 139, "test": 207},
            "modalities": {"tabular": 1391, "timeseries": 1387, "language": 1122, "vision": 864},
        },
        "lineage": [
            dict(zip(("table", "file", "outcome", "reason", "rows"), row, strict=True))
            for row in LINEAGE
        ],
        "flow": {
            "samples": 1391,
            "files": [
                {"file": "hosp/admissions.csv.gz", "kept": 1391, "own": 1391},
                {"file": "hosp/patients.csv.gz", "kept": 1209, "own": 0},
            ],
        },
        "erased": {},
        "gate": _gate(tasks),
        "checks": [
            {
                "table": "events",
                "name": "value_in_range",
                "state": "passed",
                "description": "Values lie in the signal's range.",
            },
            {
                "table": "events",
                "name": "quarantined_share",
                "state": "passed",
                "description": "At most 5% quarantined.",
            },
            {
                "table": "notes",
                "name": "text_not_empty",
                "state": "passed",
                "description": "Notes have text.",
            },
            {
                "table": "images",
                "name": "quarantined_share",
                "state": "failed",
                "description": "At most 0.1% quarantined.",
            },
        ],
        "highlights": [
            {
                "table": "events",
                "check": "sentinels",
                "stops": False,
                "share": 0.05,
                "words": "lactate: -999 stands for 50 of 1,000 values",
            }
        ],
        "metrics": {"snapshot": "2026-11-01", "tasks": tasks},
        "tim": tim(rng, tasks, tim_tasks),
        "detail": _detail(rng, tasks, full),
        "trust": {"coverage": 0.9, "tasks": _trust(tasks)},
        "drift": _drift(tasks, 300 if full else 3),
        "limits": [
            "The data is synthetic: nothing here says how the model does on patients.",
            "The vision encoder has no pretrained weights: image weights can't be had offline.",
            "The test split is small (207 samples): most intervals are wider than the differences.",
            "The intervals are not corrected for the number of tasks and pairs looked at.",
        ],
    }


def _gate(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """As gate.json of a candidate that passed beside version 2."""
    reasons = {
        "finite": "all predictions of 44 tasks are numbers",
        "better_than_trivial": "36 tasks shown to be better than trivial",
        "not_worse_than_champion": "36 tasks shown to be within 0.02 of version 2 or better",
        "calibrated": "35 tasks judged: 12 off by more than 0.05 in the estimate, none shown to be",
        "no_subgroup_harmed": "no column is declared for audits",
    }
    task = next(task for task in tasks if task["claimed"])
    return {
        "passed": True,
        "champion": "2",
        "judged": 36,
        "checks": [
            {"name": name, "passed": True, "reason": reason} for name, reason in reasons.items()
        ],
        "tasks": [{"task": task["task"], "value": 0.8, "other": 0.75, "low": 0.01, "high": 0.09}],
    }


def _detail(rng: np.random.Generator, tasks: list[dict[str, Any]], full: bool) -> dict[str, Any]:
    """As detail.json: curves of every claimed task, 15 subsets of the modalities, six groups, four
    phenotypes.
    """
    claimed = [task for task in tasks if task["claimed"]]

    def contrast(difference: float) -> dict[str, float]:
        return {
            "value": 0.8, "low": 0.77, "high": 0.83, "others": 0.8 - difference, "difference": difference,
            "difference_low": difference - 0.02, "difference_high": difference + 0.02,
        }  # fmt: skip

    names = ("tabular", "timeseries", "language", "vision")
    adds = dict(zip(names, (0.004, 0.09, 0.05, 0.02), strict=True))
    judged = [
        {"task": task["task"], **contrast(rng.normal(0, 0.03))}
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
        "comparisons": {against: claims.summarize_comparison(tasks, against, _means(tasks, field))
                        for against, field in claims.FIELDS.items()},
        "curves": {task["task"]: _curves_of(rng, task["problem"], 5000 if full else 400) for task in claimed
                   if task["problem"] in ("binary", "regression")},
        "modalities": {
            "tasks": 34,
            "subsets": [
                {"modalities": list(subset), "n": 200, "value": 0.6 + 0.05 * len(subset), "low": 0.58, "high": 0.85,
                 "retrained": {"value": 0.7, "low": 0.65, "high": 0.75} if size < 4 else None}
                for size in (4, 3, 2, 1) for subset in combinations(names, size)
            ],
            "adds": {name: contrast(value) for name, value in adds.items()},
            "by_task": [
                {"task": task["task"], "adds": {n: contrast(rng.normal(v, 0.02)) for n, v in adds.items()}}
                for task in claimed
            ],
        },
        "subgroups": [{"attribute": a, "group": g, "n": 90, **contrast(0.01), "tasks": judged} for a, g in groups]
        + [{"attribute": "race", "group": "OTHER", "n": None, "tasks": []}],
        "phenotypes": [
            {
                "task": "phenotype",
                "clusters": [
                    {"cluster": 0, "n": 105, "compared": 42, "differs": 7, "enriched": [
                        {"task": name, "q": 0.001, "inside": 0.4, "outside": 0.2, "difference": 0.2, "low": 0.1,
                         "high": 0.3} for name in ("sepsis", "heart_failure")]},
                    {"cluster": 1, "n": 40, "compared": 42, "differs": 0, "enriched": []},
                    {"cluster": 2, "n": None, "compared": 0, "differs": 0, "enriched": []},
                ],
            }
        ],
    }  # fmt: skip


def _means(tasks: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
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


def _curves_of(rng: np.random.Generator, problem: str, samples: int) -> dict[str, Any]:
    said = rng.beta(1, 3, samples)
    happened = rng.random(samples) < said
    if problem == "regression":
        bins = [
            {"predicted": v, "observed": v + 0.3, "low": v - 1, "high": v + 1.5}
            for v in np.linspace(2, 20, 10)
        ]
        return {"unit": "days", "bins": bins}
    points = operating_points(happened, said)
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
        "prevalence": float(happened.mean()),
        "bins": bins,
        "points": points,
        "thresholds": [{"rule": "find 80% of them", **points[len(points) // 2], **ends}],
    }


def _trust(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    numbers = {
        "coverage": 0.905,
        "low": 0.86,
        "high": 0.94,
        "size": 1.62,
        "error": 0.053,
        "calibrated": 0.049,
    }
    claimed = [task for task in tasks if task["claimed"] and task["problem"] != "clustering"]
    return [
        {"task": task["task"], "n": task["n"], "positives": 0.93, **numbers} for task in claimed
    ]


def _drift(tasks: list[dict[str, Any]], inputs: int) -> dict[str, Any]:
    """A champion that has aged: one input and one modality are not as they were, and one task has
    lost.
    """
    names = [
        ("age", "tabular", 0.31),
        ("number of notes", "language", 0.12),
        ("heart_rate", "timeseries", 0.04),
    ]
    names += [(f"lab_{k}", "timeseries", 0.02) for k in range(inputs - 3)]
    compared = [
        {
            "name": name,
            "modality": modality,
            "distance": distance,
            "q": 0.001 * i,
            "n": 412,
            "changed": not i,
        }
        for i, (name, modality, distance) in enumerate(names)
    ]
    since = [
        {
            "task": task["task"], "metric": task["metric"], "n": 380, "then": 0.81, "value": 0.81 - 0.09 * (not i),
            "low": 0.68, "high": 0.84, "q": 0.01, "fell": not i, "stated": 0.9, "coverage": 0.9 - 0.1 * (not i),
            "uncovered": not i,
        }
        for i, task in enumerate(tasks[:3])
    ]  # fmt: skip
    return {
        "problem": None, "champion": "2",
        "reason": None,
        "new": 412,
        "inputs": compared,
        "missing": [record | {"then": 0.1, "now": 0.4} for record in compared[1:]],
        "scores": [compared[2] | {"name": tasks[0]["task"], "modality": "scores"}],
        "performance": since,
        "checks": {
            "inputs": [False, "3 features compared over 412 new samples: 1 changed: Age (distance 0.31)."],
            "missingness": [True, "2 features compared over 412 new samples: none has changed."],
            "scores": [True, "1 task compared over 412 new samples: none has changed."],
            "performance": [False, (
                "Worse since the registration: Heart failure 0.720, was 0.810; 80% of the labels "
                "within what was said, stated 90%."
            )],
        },
    }  # fmt: skip


def _task(rng: np.random.Generator, k: int, spec: dict[str, Any], full: bool) -> dict[str, Any]:
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
        "value": value, "low": value - width, "high": value + width,
        "single_task": value - difference, "trees": None if k == 43 else value - rng.normal(0.005, 0.03),
        "difference": difference, "difference_low": difference - spread, "difference_high": difference + spread,
    }  # fmt: skip
    gap = None if scores["trees"] is None else value - scores["trees"]
    scores["trees_difference"] = gap
    scores["trees_difference_low"] = None if gap is None else gap - spread
    scores["trees_difference_high"] = None if gap is None else gap + spread
    return {
        "task": spec["name"],
        "problem": spec["problem"],
        "department": spec["department"],
        "metric": METRIC[spec["problem"]],
        "n": n,
        "positives": (positives if claimed else None) if spec["problem"] == "binary" else None,
        "claimed": claimed,
        "reason": None
        if claimed
        else "fewer than 10 positives or negatives among the test samples",
    } | {
        name: round(score, 6) if claimed and score is not None else None
        for name, score in scores.items()
    }


def tim(rng: np.random.Generator, tasks: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """A tim.json over the first claimed tasks, with some cells estimated and some effects that
    survive.
    """
    chosen = [task for task in tasks if task["claimed"]][:count]
    if count > len(chosen):
        chosen = tasks[:count]
    matrix = rng.normal(0.004, 0.012, (count, count))
    spread = rng.uniform(0.006, 0.03, (count, count))
    estimated = rng.random((count, count)) < 0.1
    for part in (matrix, spread, estimated):
        np.fill_diagonal(part, 0)
    evidence = (np.abs(matrix) > 1.3 * spread) & ~estimated
    q = np.where(evidence, 0.01, 0.4)
    single = rng.uniform(0.65, 0.9, count)
    names = [task["task"] for task in chosen]
    cut = count // 2

    def cells(values: np.ndarray, known: np.ndarray) -> list[list[float | None]]:
        return [
            [v if k else None for v, k in zip(*rows, strict=True)]
            for rows in zip(values.tolist(), known, strict=True)
        ]

    tested = ~estimated & ~np.eye(count, dtype=bool)
    left_out = rng.normal(0, 0.01, (count, 2)).round(6)
    there = np.ones((count, 2), bool)
    there[0, 0] = there[1, 1] = False
    return {
        "tasks": names,
        "method": "pairwise",
        "unit": "metric",
        "network": "light",
        "seeds": 2,
        "models": 2 * (count + 1 + count * (count - 1) // 2),
        "fdr": 0.05,
        "matrix": matrix.round(6).tolist(),
        "low": (matrix - spread).round(6).tolist(),
        "high": (matrix + spread).round(6).tolist(),
        "q": cells(q, tested),
        "evidence": evidence.tolist(),
        "single": single.round(6).tolist(),
        "joint": (single + rng.normal(0.01, 0.02, count)).round(6).tolist(),
        "n": [task["n"] for task in chosen],
        "source": np.where(estimated, "estimated", "retrained").tolist(),
        "estimator": {"agreement": 0.41},
        "groups": {
            "tasks": [names[:cut], names[cut:]],
            "models": 2,
            "best": "groups",
            "advised": False,
            "tried": [
                {"models": 1, "valid": 0.811, "test": 0.802},
                {"models": 2, "valid": 0.815, "test": 0.801},
            ],
            "single": {"valid": 0.805, "test": 0.796},
            "gain": {"value": 0.005, "low": 0.001, "high": 0.009},
            "gain_over_joint": {"value": -0.001, "low": -0.004, "high": 0.002},
        },
        "leave_one_out": {
            "tasks": names[:2],
            "matrix": cells(left_out, there),
            "low": cells(left_out - 0.02, there),
            "high": cells(left_out + 0.02, there),
            "spearman": 0.12,
            "same_sign": 0.54,
            "cells": 2 * (count - 1),
        },
    }
