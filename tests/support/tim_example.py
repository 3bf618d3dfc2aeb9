"""A made-up tim.json."""

from __future__ import annotations

from typing import Any

import numpy as np


def build_tim(rng: np.random.Generator, tasks: list[dict[str, Any]], count: int) -> dict[str, Any]:
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

    tested = ~estimated & ~np.eye(count, dtype=bool)
    left_out = rng.normal(0, 0.01, (count, 2)).round(6)
    measured = np.ones((count, 2), bool)
    measured[0, 0] = False
    measured[1, 1] = False
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
        "q": _to_cells(q, tested),
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
            "matrix": _to_cells(left_out, measured),
            "low": _to_cells(left_out - 0.02, measured),
            "high": _to_cells(left_out + 0.02, measured),
            "spearman": 0.12,
            "same_sign": 0.54,
            "cells": 2 * (count - 1),
        },
    }


def _to_cells(values: np.ndarray, mask: np.ndarray) -> list[list[float | None]]:
    """The values as JSON holds them: null where the mask is false."""
    return np.where(mask, values.astype(object), None).tolist()
