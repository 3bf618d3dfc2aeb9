"""A made-up tim.json."""

from __future__ import annotations

from typing import Any

import numpy as np


def build_tim(
    rng: np.random.Generator, tasks: list[dict[str, Any]], count: int, surviving: int
) -> dict[str, Any]:
    """A tim.json over the first claimed tasks (and others, where these are too few, of whom nothing
    is said), with so many effects that survive; one of seven leaves the metric where it was.
    """
    claimed = [task for task in tasks if task["claimed"]]
    chosen = claimed[:count] if count <= len(claimed) else tasks[:count]
    is_judged = np.array([task["claimed"] for task in chosen])
    is_claimed = [task["claimed"] for task in tasks]
    gain = rng.normal(0.004, 0.012, (count, count))
    spread = rng.uniform(0.006, 0.03, (count, count))
    matrix = 0.6 * gain + rng.normal(0, 0.002, (count, count))
    is_tested = is_judged[:, None] & ~np.eye(count, dtype=bool)
    evidence = np.zeros((count, count), dtype=bool)
    largest = np.argsort(-np.abs(np.where(is_tested, gain, 0)), axis=None)[:surviving]
    evidence.flat[largest] = True
    matrix.flat[largest] = np.sign(gain.flat[largest]) * (0.003 + np.abs(gain.flat[largest]))
    spread.flat[largest] = 0.6 * np.abs(matrix.flat[largest])
    spread.flat[largest[3::7]] *= 2
    stopped = rng.random((count, count)) < 0.4
    stopped = (stopped | stopped.T) & ~(evidence | evidence.T) & ~np.eye(count, dtype=bool)
    q = np.where(evidence, 0.01, np.where(stopped, 1.0, 0.4))
    single = rng.uniform(0.65, 0.9, count)
    together = rng.normal(0.01, 0.02, count)
    joint_evidence = is_judged & (np.arange(count) % 3 == 0)
    joint_spread = np.abs(together) * np.where(joint_evidence, 0.5, 1.5)
    cells = {
        "matrix": matrix,
        "low": matrix - spread,
        "high": matrix + spread,
        "gain": gain,
    }
    is_said = is_judged[:, None] | np.zeros((count, count), dtype=bool)
    for part in cells.values():
        np.fill_diagonal(part, 0)
    return {
        "tasks": [task["task"] for task in chosen],
        "method": "pairwise",
        "network": "light",
        "folds": 3,
        "seeds": 3,
        "models": 5 * (count + count * (count - 1) // 2),
        "fdr": 0.05,
        **{name: _to_cells(part.round(6), is_said) for name, part in cells.items()},
        "q": _to_cells(q, is_tested),
        "evidence": evidence.tolist(),
        "stopped": stopped.tolist(),
        "single": _to_cells(single.round(6), is_judged),
        "joint_learning": {
            "single": _to_cells(single.round(6), is_judged),
            "joint": _to_cells((single + together).round(6), is_judged),
            "change": _to_cells(together.round(6), is_judged),
            "low": _to_cells((together - joint_spread).round(6), is_judged),
            "high": _to_cells((together + joint_spread).round(6), is_judged),
            "gain": _to_cells((1.5 * together).round(6), is_judged),
            "q": _to_cells(np.where(joint_evidence, 0.004, 0.3), is_judged),
            "evidence": joint_evidence.tolist(),
            "mean": {"value": 0.0136, "low": 0.0061, "high": 0.0211},
        },
        "n": [task["n"] if task["claimed"] else None for task in chosen],
        "groups": _build_groups([task["task"] for task in chosen]),
        "leave_one_out": _leave_out(rng, [task["task"] for task in chosen], is_judged),
        "attention": _build_attention([task["task"] for task in tasks], is_claimed),
    }


def _build_groups(names: list[str]) -> dict[str, Any]:
    cut = len(names) // 2
    return {
        "tasks": [names[:cut], names[cut:]],
        "models": 2,
        "best": "groups",
        "advised": False,
        "tried": [
            {"models": 1, "valid": 0.211, "test": 0.202},
            {"models": 2, "valid": 0.215, "test": 0.201},
        ],
        "single": {"valid": 0.205, "test": 0.196},
        "gain": {"value": 0.005, "low": 0.001, "high": 0.009},
        "gain_over_joint": {"value": -0.001, "low": -0.004, "high": 0.002},
    }


def _build_attention(names: list[str], is_claimed: list[bool]) -> dict[str, Any]:
    """Of all tasks of the joint model; draws of its own, so that the rest stays as it is."""
    scores = np.random.default_rng(1).normal(size=(len(names), len(names)))
    scores += np.eye(len(names)) * (1 + np.log(len(names)))
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    is_shown = np.repeat(np.array(is_claimed)[:, None], len(names), axis=1)
    return {"tasks": names, "weights": _to_cells(weights.round(6), is_shown)}


def _leave_out(rng: np.random.Generator, names: list[str], is_judged: np.ndarray) -> dict[str, Any]:
    """The first two left out; of the second one change survives."""
    count = len(names)
    changes = rng.normal(0, 0.01, (count, 2)).round(6)
    is_measured = np.repeat(is_judged[:, None], 2, axis=1)
    is_measured[[0, 1], [0, 1]] = False
    evidence = np.zeros((count, 2), dtype=bool)
    evidence[2, 1] = is_measured[2, 1]
    spread = np.where(evidence, 0.8 * np.abs(changes), 0.02)
    return {
        "tasks": names[:2],
        "matrix": _to_cells(changes, is_measured),
        "low": _to_cells((changes - spread).round(6), is_measured),
        "high": _to_cells((changes + spread).round(6), is_measured),
        "gain": _to_cells((1.5 * changes).round(6), is_measured),
        "evidence": evidence.tolist(),
        "spearman": 0.12,
        "same_sign": 0.54,
        "cells": 2 * (count - 1),
    }


def _to_cells(values: np.ndarray, mask: np.ndarray) -> list[Any]:
    """The values as JSON holds them: null where the mask is false."""
    return np.where(mask, values.astype(object), None).tolist()
