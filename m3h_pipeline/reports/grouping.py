"""Which tasks to train together, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m3h_pipeline.wording import format_interval, format_number, join_words


def describe_grouping(groups: Mapping[str, Any]) -> list[str]:
    """Which tasks to train together, in sentences; ``groups``: those of tim.json.

    All options are compared by one measure, and groups are advised only where both splits say so.
    """
    scores = {_name_models(row["models"]): row for row in groups["tried"]} | {
        "one model a task": groups["single"]
    }
    chosen = _name_models(groups["models"])
    by_valid = sorted(scores, key=lambda option: -scores[option]["valid"])
    best = "one model a task" if groups["best"] == "single" else chosen
    second = next(option for option in by_valid if option != best)
    sentences = [
        f"Of {join_words(list(scores))}, {best} did best on the validation split: mean skill "
        f"{format_number(scores[best]['valid'])} (a constant's is 0), then {second} with "
        f"{format_number(scores[second]['valid'])}."
    ]
    gains = {"one model a task": groups["gain"]}
    if groups["models"] > 1:
        gains["one model of all tasks"] = groups["gain_over_joint"]
    against = [
        f"{format_number(gain['value'], sign=True)} "
        f"({format_interval(gain['low'], gain['high'], sign=True)}) against {other}"
        for other, gain in gains.items()
    ]
    sentences.append(f"On patients that no model saw {chosen} scored {join_words(against)}.")
    return [*sentences, _describe_advice(groups, gains)]


def _name_models(count: int) -> str:
    return "one model of all tasks" if count == 1 else f"{count} models"


def _describe_advice(groups: Mapping[str, Any], gains: Mapping[str, Mapping[str, float]]) -> str:
    """What follows for whoever decides how to train."""
    if groups["advised"]:
        return "Both agree, so training in these groups is advised:"
    lost = [
        f"{format_number(-gain['value'])} against {other}"
        for other, gain in gains.items()
        if gain["value"] < 0
    ]
    if groups["best"] != "groups":
        return "Training in groups is not advised."
    if lost:
        return f"Training in groups is not advised: on those patients it loses {join_words(lost)}."
    return "Training in groups is not advised: on those patients no gain over both is shown."
