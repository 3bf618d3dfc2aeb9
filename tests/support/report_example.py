"""Made-up results of the 44 tasks, of the size and shape that a real run gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from evaluation_example import build_detail, build_task
from tim_example import build_tim

from m3h_pipeline.evaluation.method import describe_evaluation_limits

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


def example(
    tim_tasks: int = 8, seed: int = 0, full: bool = False, surviving: int | None = None
) -> dict[str, Any]:
    """What `write_report` takes of a cross-fitted cohort: 36 of 44 tasks claimed, one of them
    unscored by the trees.

    ``surviving``: so many effects of task interaction do, else as many as it has tasks. ``full``:
    of a large hospital: all claimed, 5,000 samples judged, 40 subgroups, 300 inputs compared.
    """
    rng = np.random.default_rng(seed)
    tasks = [
        build_task(rng, k, spec, full)
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
            "judged": 1391,
            "splits": {"train": 838, "valid": 207, "calibration": 139, "test": 207},
            "folds": {"1": 478, "2": 451, "3": 462},
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
        "tim": build_tim(
            rng.spawn(1)[0], tasks, tim_tasks, tim_tasks if surviving is None else surviving
        ),
        "detail": build_detail(rng, tasks, full),
        "embeddings": {
            "tabular": {"encoder": None, "columns": 375, "seconds": 0.2},
            "timeseries": {"encoder": None, "columns": 1476, "seconds": 1.2},
            "language": {"encoder": "minilm", "columns": 384, "seconds": 17.5},
            "vision": {"encoder": "efficientnet-lite0", "columns": 54, "seconds": 13.8},
        },
        "trust": {"coverage": 0.9, "tasks": _trust(tasks)},
        "drift": _drift(tasks, 300 if full else 3),
        "limits": [
            "The data is synthetic: nothing here says how the model does on patients.",
            "The image encoder (EfficientNet-lite0) was trained on photographs (ImageNet), not on "
            "medical images.",
            "The intervals are not corrected for the number of tasks and pairs looked at.",
            *describe_evaluation_limits(3, 1391),
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


def _trust(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    numbers = {
        "coverage": 0.905,
        "low": 0.86,
        "high": 0.94,
        "size": 1.62,
        "error": 0.053,
        "calibrated": 0.049,
    }
    third = {"n": 64, "coverage": 0.92, "low": 0.83, "high": 0.97, "size": 4.1}
    thirds = {"regression": [third, third | {"coverage": 0.89}, None]}
    claimed = [task for task in tasks if task["claimed"] and task["problem"] != "clustering"]
    return [
        {
            "task": task["task"],
            "n": task["n"],
            "positives": 0.93,
            "thirds": thirds.get(task["problem"]),
            **numbers,
        }
        for task in claimed
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
            "task": task["task"],
            "metric": task["metric"],
            "n": 380,
            "then": 0.81,
            "value": 0.81 - 0.09 * (not i),
            "low": 0.68,
            "high": 0.84,
            "q": 0.01,
            "fell": not i,
            "stated": 0.9,
            "coverage": 0.9 - 0.1 * (not i),
            "uncovered": not i,
        }
        for i, task in enumerate(tasks[:3])
    ]
    return {
        "problem": None,
        "champion": "2",
        "reason": None,
        "new": 412,
        "inputs": compared,
        "missing": [record | {"then": 0.1, "now": 0.4} for record in compared[1:]],
        "scores": [compared[2] | {"name": tasks[0]["task"], "modality": "scores"}],
        "performance": since,
        "checks": {
            "inputs": [
                False,
                "3 features compared over 412 new samples: 1 changed: Age (distance 0.31).",
            ],
            "missingness": [True, "2 features compared over 412 new samples: none has changed."],
            "scores": [True, "1 task compared over 412 new samples: none has changed."],
            "performance": [
                False,
                "Worse since the registration: Heart failure 0.720, was 0.810; 80% of the labels "
                "within what was said, stated 90%.",
            ],
        },
    }
