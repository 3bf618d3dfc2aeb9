"""What has changed since the champion was trained: inputs, what is missing, scores, and how good
they are.

At its registration a model is given a *reference*: of each feature how often its values fell into a
few bins among the training samples, and of each task the same of its scores on samples that it had
not learned from (of what it learned, a network is surer). Bins are chosen so that each holds at
least 10 samples, and their ends are rounded: no patient's value is in it, and no count tells of a
few.

Each night the samples that are new to the champion are counted into the same bins. How far they are
off is the total variation distance: the share of samples that would have to change place. Whether
that can be chance is asked by a chi-squared test, by Fisher's for missing values, with the false
discovery rate held over all features. A change counts where both say so: the test alone would call
any difference one once a hospital is large enough, the distance alone would at first be mostly
noise. Samples of one patient are no independent ones: counts are divided by their design effect, of
which the reference holds that of its own.

Performance is judged on labels that have arrived since: no version learned from a label that was
not there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from m3h_core import Calibrator, Cohort, Held, TaskSpec
from m3h_core.cohort import CALIBRATION, TEST, TRAIN
from m3h_core.grouped import design_effect
from m3h_core.metrics import Score, evaluate_predictions
from m3h_pipeline.config import MonitoringConfig
from m3h_pipeline.contracts.check_states import said
from m3h_pipeline.evaluation.quality import too_few
from m3h_pipeline.features.items import MODALITIES, is_given
from m3h_pipeline.state.data_files import read_json, write_json
from m3h_pipeline.wording import (
    MIN_GROUP_SIZE,
    format_count,
    format_name,
    format_number,
    join_words,
    pluralize,
)

REFERENCE = "reference.json"
FILE = "monitoring.json"
_FORMAT = 1
_BINS = 10
_DIGITS = 3
_FIVES = 5
_OTHER = "(other)"
# Standard deviations that a 95% interval spans.
_WIDTH = 2 * 1.96

Feature = dict[str, Any]


# The reference ------------------------------------------------------------------------------------


def write_reference(
    inputs: Path, cohort: Path, joint: Path, metrics: Mapping[str, Any], to: Path
) -> None:
    """Write ``reference.json`` of a model: from its inputs, its cohort, its own predictions and its
    metrics.json.
    """
    from safetensors.numpy import load_file

    loaded = Cohort.load(cohort)
    about = read_json(joint / "model" / "model.json")
    tasks = [TaskSpec.from_dict(record) for record in about["tasks"]]
    scores = Calibrator.load(joint / "calibration").calibrated(
        load_file(joint / "predictions.safetensors")
    )
    order = pl.read_parquet(inputs / "samples.parquet")
    learned = order.filter(pl.col("split") == TRAIN)
    train = learned["sample_id"]
    patients = learned["subject_id"].to_numpy()
    unseen = np.isin(loaded.split, (CALIBRATION, TEST))
    said = {task.name: _one_a_sample(task, scores[task.name][unseen]) for task in tasks}
    write_json(
        to / REFERENCE,
        {
            "format": _FORMAT,
            "tasks": [task.to_dict() for task in tasks],
            "features": [
                _summary(*key, values, patients) for key, values in observed(inputs, train).items()
            ],
            "scores": [
                _summary(task, "scores", values, loaded.subjects[unseen])
                for task, values in said.items()
            ],
            "performance": {
                task["task"]: {
                    field: task[field] for field in ("metric", "value", "low", "high", "n")
                }
                for task in metrics["tasks"]
                if task["claimed"]
            },
        },
    )


def observed(inputs: Path, samples: pl.Series) -> dict[tuple[str, str], pl.Series]:
    """What is watched of some samples: {(feature, modality): a value each, null where it is
    missing}.

    Declared columns; the latest value of each signal; how many events, notes and images, and how
    long the notes are.
    """
    order = pl.DataFrame({"sample_id": samples})
    found: dict[tuple[str, str], pl.Series] = {}

    def take(modality: str, table: pl.LazyFrame) -> None:
        rows = table.filter(pl.col("sample_id").is_in(samples.implode())).collect()
        rows = order.join(rows, on="sample_id", how="left", maintain_order="left")
        found.update(
            {
                (feature, modality): rows[feature]
                for feature in rows.columns
                if feature != "sample_id"
            }
        )

    def table(modality: str) -> pl.LazyFrame:
        return pl.scan_parquet(inputs / f"{modality}.parquet")

    def per_sample(modality: str, **what: pl.Expr) -> None:
        take(modality, table(modality).group_by("sample_id").agg(**what))

    given = [modality for modality in MODALITIES if is_given(modality, inputs)]
    for modality in given:
        take(
            modality,
            pl.scan_parquet(inputs / f"given_{modality}.parquet").select(
                "sample_id", vector=pl.lit(1)
            ),
        )
    if "tabular" not in given:
        take("tabular", table("tabular").drop("split"))
    if "timeseries" not in given:
        per_sample("timeseries", **{"number of events": pl.len()})
        latest = (
            table("timeseries")
            .filter(pl.col("sample_id").is_in(samples.implode()))
            .sort("hours", "value")
        )
        latest = latest.group_by("code", "sample_id").agg(pl.col("value").last()).collect()
        for code, rows in sorted(
            latest.partition_by("code", as_dict=True, include_key=False).items()
        ):
            if len(rows) >= MIN_GROUP_SIZE:
                joined = order.join(rows, on="sample_id", how="left", maintain_order="left")
                found[str(code[0]), "timeseries"] = joined["value"]
    if "language" not in given:
        characters = pl.col("text").str.len_chars().sum()
        per_sample("language", **{"number of notes": pl.len(), "characters of notes": characters})
    if "vision" not in given:
        per_sample("vision", **{"number of images": pl.len()})
    return found


def _one_a_sample(task: TaskSpec, scores: np.ndarray) -> pl.Series:
    """A number a sample, or the likeliest class or cluster, from scores [n] or [n, C]."""
    if scores.ndim == 1:
        return pl.Series(scores)
    return pl.Series("class", np.array(task.class_names)[scores.argmax(1)])


def _summary(
    feature: str, modality: str, values: pl.Series, subjects: np.ndarray | None = None
) -> Feature:
    """How often a feature is known and its values fall into each bin, rounded so that no small
    group can be told.

    ``subjects`` [n]: whose samples they are; from them, how much more than independent ones these
    vary.
    """
    about: Feature = {"name": feature, "modality": modality, "n": _rounded(len(values))}
    known = values.drop_nulls()
    if values.dtype.is_numeric():
        known = known.cast(pl.Float64)
        known = known.filter(known.is_finite())
        about |= {"kind": "number", "edges": _edges(known.to_numpy())}
    else:
        about |= {"kind": "category", "categories": _categories(known.cast(pl.String))}
    about["known"] = _rounded(
        len(values) if len(values) - len(known) < MIN_GROUP_SIZE else len(known)
    )
    if subjects is not None:
        about["design"] = {
            name: round(effect, 1) for name, effect in _designs(about, values, subjects).items()
        }
    return about | {"counts": [_rounded(int(n)) for n in _counted(about, known)]}


def _designs(feature: Feature, values: pl.Series, subjects: np.ndarray) -> dict[str, float]:
    """The design effect of the values' bins, and of which values are known."""
    places = _places(feature, values)
    is_known = places >= 0
    return {
        "values": design_effect(places[is_known], subjects[is_known]),
        "known": design_effect(values.is_not_null().to_numpy(), subjects),
    }


def _rounded(n: int) -> int:
    """To fives, 0 for fewer than ten: what is left over of a total tells of no few patients."""
    return 0 if n < MIN_GROUP_SIZE else _FIVES * round(n / _FIVES)


def _categories(known: pl.Series) -> list[str]:
    """Those of at least ten samples, as many as leave nobody or at least ten to the others."""
    counts = known.value_counts(sort=True, name="n").sort("n", known.name, descending=[True, False])
    sizes = counts["n"].to_list()
    kept = sum(size >= MIN_GROUP_SIZE for size in sizes)
    while kept and 0 < sum(sizes[kept:]) < MIN_GROUP_SIZE:
        kept -= 1
    return sorted(counts[known.name].to_list()[:kept])


def _edges(known: np.ndarray) -> list[float]:
    """Ends of bins of about equal count, each bin with at least 10 values; empty where one bin is
    all there can be.
    """
    if len(known) < 2 * MIN_GROUP_SIZE:
        return []
    wanted = np.quantile(known, np.arange(1, _BINS) / _BINS)
    edges: list[float] = []
    below = 0
    for edge in sorted({float(f"{value:.{_DIGITS}g}") for value in wanted}):
        until = int((known <= edge).sum())
        if until - below >= MIN_GROUP_SIZE and len(known) - until >= MIN_GROUP_SIZE:
            edges.append(edge)
            below = until
    return edges


def _counted(feature: Feature, values: pl.Series) -> np.ndarray:
    """How many values fall into each bin; the last one of categories is for all that have none."""
    bins = feature["edges"] if feature["kind"] == "number" else feature["categories"]
    places = _places(feature, values)
    return np.bincount(places[places >= 0], minlength=len(bins) + 1)


def _places(feature: Feature, values: pl.Series) -> np.ndarray:
    """The bin [n] of each value, -1 where it is not known."""
    if feature["kind"] == "number":
        numbers = values.cast(pl.Float64, strict=False).fill_null(math.nan).to_numpy()
        return np.where(np.isfinite(numbers), np.searchsorted(feature["edges"], numbers), -1)
    place = {category: i for i, category in enumerate(feature["categories"])}
    of_row = [
        -1 if value is None else place.get(value, len(place)) for value in values.cast(pl.String)
    ]
    return np.array(of_row, dtype=int)


# A night ------------------------------------------------------------------------------------------


def monitor(
    inputs: Path,
    scores: Path,
    labels: Path,
    learned: Path | None,
    config: MonitoringConfig,
    to: Path,
    bootstrap: int,
) -> dict[str, Any]:
    """Compare tonight with the champion's reference and write ``monitoring.json``; returns its
    content.

    ``scores``: the step that holds scores.parquet and reference.json; ``labels``: the validated
    ones; ``learned``: the cohort that the champion learned from, None where it is no longer there.
    """
    found: dict[str, Any] = {
        "reason": None,
        "new": None,
        "inputs": [],
        "missing": [],
        "scores": [],
        "performance": [],
    }
    scored = pl.read_parquet(scores / "scores.parquet")
    reference = read_json(scores / REFERENCE) if (scores / REFERENCE).exists() else None
    if reference is None:
        found["reason"] = (
            "there is no champion yet, or one that can't be applied or was registered without a "
            "reference"
        )
    elif learned is None:
        found["reason"] = (
            "the snapshot that the champion learned from is no longer here, so nothing counts as "
            "new"
        )
    elif reference["format"] != _FORMAT:
        found["reason"] = (
            f"the champion's reference is of format {reference['format']}, this version reads "
            f"{_FORMAT}"
        )
    else:
        new = scored.filter("new")
        samples = new["sample_id"].unique().sort()
        whose = dict(zip(new["sample_id"], new["subject_id"], strict=True))
        subjects = np.array([whose[sample] for sample in samples])
        found["new"] = len(samples) if len(samples) >= MIN_GROUP_SIZE else None
        tasks = [TaskSpec.from_dict(task) for task in reference["tasks"]]
        if len(samples) < config.fewest:
            few = format_count(len(samples)) if len(samples) else "no"
            found["reason"] = (
                f"{few} samples are new to the champion, fewer than the {config.fewest} it takes"
            )
        else:
            seen = observed(inputs, samples)
            features = [(f, seen.get((f["name"], f["modality"]))) for f in reference["features"]]
            absent = pl.Series([None] * len(samples), dtype=pl.Float64)
            filled = [
                (feature, absent if values is None else values) for feature, values in features
            ]
            found["inputs"] = _tested([_moved(*pair, config, subjects) for pair in filled], config)
            found["missing"] = _tested([_gone(*pair, config, subjects) for pair in filled], config)
            said = _said(new, tasks, whose)
            found["scores"] = _tested(
                [
                    _moved(score, said[score["name"]][0], config, said[score["name"]][1])
                    for score in reference["scores"]
                    if score["name"] in said
                ],
                config,
            )
        found["performance"] = _performance(
            scored, labels, Cohort.load(learned), tasks, reference["performance"], config, bootstrap
        )
    write_json(to / FILE, found)
    return found


def _moved(
    feature: Feature,
    values: pl.Series,
    config: MonitoringConfig,
    subjects: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """How far the known values of a feature are from where they were; None where too few are
    known.
    """
    from scipy.stats import chi2_contingency

    then = np.array(feature["counts"])
    now = _counted(feature, values)
    used = (then > 0) | (now > 0)
    if min(then.sum(), now.sum()) < config.fewest or used.sum() < 2:
        return None
    design_then, design_now = _two_designs(feature, values, subjects, "values")
    table = [then[used] / design_then, now[used] / design_now]
    p_value = float(chi2_contingency(table, correction=False).pvalue)
    return _difference(
        feature, 0.5 * np.abs(then / then.sum() - now / now.sum()).sum(), p_value, int(now.sum())
    )


def _gone(
    feature: Feature,
    values: pl.Series,
    config: MonitoringConfig,
    subjects: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """How far the share of samples that lack a feature is from what it was."""
    from scipy.stats import fisher_exact

    then = (feature["known"], feature["n"] - feature["known"])
    now = (values.count(), values.null_count())
    if min(sum(then), sum(now)) < config.fewest:
        return None
    shares = [part[1] / sum(part) for part in (then, now)]
    designs = _two_designs(feature, values, subjects, "known")
    table = [
        [round(count / design) for count in part]
        for part, design in zip((then, now), designs, strict=True)
    ]
    p_value = float(fisher_exact(table).pvalue)
    record = _difference(feature, abs(shares[1] - shares[0]), p_value, sum(now))
    few = min(now) < MIN_GROUP_SIZE and min(now) > 0
    return record | {"then": round(shares[0], 3), "now": None if few else round(shares[1], 3)}


def _two_designs(
    feature: Feature, values: pl.Series, subjects: np.ndarray | None, of: str
) -> tuple[float, float]:
    """The design effects of the reference and of tonight; 1 where nobody knows whose samples they
    are.
    """
    then = feature.get("design", {}).get(of, 1.0)
    return then, 1.0 if subjects is None else _designs(feature, values, subjects)[of]


def _difference(feature: Feature, distance: float, p_value: float, n: int) -> dict[str, Any]:
    where = {"name": feature["name"], "modality": feature["modality"]}
    return where | {"distance": round(float(distance), 3), "p": p_value, "n": n}


def _tested(
    records: Sequence[dict[str, Any] | None], config: MonitoringConfig
) -> list[dict[str, Any]]:
    """With q-values over all that were compared, and whether each has changed; the farthest
    first.
    """
    from scipy.stats import false_discovery_control

    made = [record for record in records if record is not None]
    q_values = false_discovery_control([record.pop("p") for record in made]) if made else []
    for record, q in zip(made, q_values, strict=True):
        record |= {
            "q": _significant(q),
            "changed": bool(q < config.fdr and record["distance"] > config.distance),
        }
    return sorted(
        made, key=lambda record: (-record["distance"], record["modality"], record["name"])
    )


def _significant(value: float) -> float:
    return float(f"{value:.3g}")


def _said(
    scored: pl.DataFrame, tasks: Sequence[TaskSpec], whose: Mapping[str, str]
) -> dict[str, tuple[pl.Series, np.ndarray]]:
    """One score a sample of each task, as `_one_a_sample` gives it, and whose samples they are."""
    found = {}
    for task in tasks:
        samples, scores = _array(task, scored, "prediction")
        subjects = np.array([whose[sample] for sample in samples])
        found[task.name] = (_one_a_sample(task, scores), subjects)
    return found


def _array(task: TaskSpec, scored: pl.DataFrame, column: str) -> tuple[list[str], np.ndarray]:
    """The samples [n] that have scores of a task, and a column of these [n], or [n, C] for several
    classes.
    """
    mine = scored.filter(pl.col("task") == task.name)
    if task.problem not in ("multiclass", "clustering"):
        return mine["sample_id"].to_list(), mine[column].to_numpy()
    classes = [
        mine.filter(pl.col("class") == label).sort("sample_id") for label in task.class_names
    ]
    return classes[0]["sample_id"].to_list(), np.column_stack(
        [part[column].to_numpy() for part in classes]
    )


# Performance --------------------------------------------------------------------------------------


def _performance(
    scored: pl.DataFrame,
    labels: Path,
    learned: Cohort,
    tasks: Sequence[TaskSpec],
    then: Mapping[str, Mapping[str, Any]],
    config: MonitoringConfig,
    bootstrap: int,
) -> list[dict[str, Any]]:
    """Each task's score and coverage on labels that have arrived since, beside its score at the
    registration.
    """
    known = pl.read_parquet(labels / "labels.parquet", columns=["sample_id", "task", "value"])
    tonight = {record["name"]: record for record in json.loads((labels / "tasks.json").read_text())}
    records = []
    for task in tasks:
        if task.problem == "clustering" or task.name not in then:
            continue
        if TaskSpec.from_dict(tonight[task.name]) != task if task.name in tonight else True:
            continue  # another task goes by its name now
        had = np.asarray(learned.labelled[task.name])
        before = [sample for sample, was in zip(learned.sample_ids, had, strict=True) if was]
        mine = known.filter((pl.col("task") == task.name) & ~pl.col("sample_id").is_in(before))
        records.append(_judged(task, scored, mine, then[task.name], bootstrap))
    return _fallen([record for record in records if record is not None], config)


def _judged(
    task: TaskSpec,
    scored: pl.DataFrame,
    labels: pl.DataFrame,
    then: Mapping[str, Any],
    bootstrap: int,
) -> dict[str, Any] | None:
    """One task on its new labels; None where these are too few to be scored."""
    rows = scored.join(labels.select("sample_id", target=pl.col("value")), on="sample_id").sort(
        "sample_id"
    )
    samples, prediction = _array(task, rows, "prediction")
    first = rows.filter(pl.col("task") == task.name).unique(
        "sample_id", keep="first", maintain_order=True
    )
    target = first["target"].to_numpy()
    cohort = Cohort(
        sample_ids=samples, split=np.full(len(samples), TEST), embeddings={}, present={},
        labels={task.name: target}, labelled={task.name: np.ones(len(samples), dtype=bool)},
        subject_ids=first["subject_id"].to_list(),
    )  # fmt: skip
    if too_few(cohort, task):
        return None
    score = evaluate_predictions(cohort, [task], {task.name: prediction}, n_bootstrap=bootstrap)[
        task.name
    ]
    return {
        "task": task.name,
        "metric": score.metric,
        "n": score.n,
        "then": then["value"],
        **{field: round(getattr(score, field), 4) for field in ("value", "low", "high")},
        **_coverage(task, first, target),
        "p": _chance_of_fall(score, then),
    }


def _coverage(task: TaskSpec, rows: pl.DataFrame, target: np.ndarray) -> dict[str, Any]:
    """How often sets or intervals held the new labels; nulls for a model of a format that had
    none.
    """
    stated = rows["coverage"].max()
    if stated is None:
        return {"stated": None, "coverage": None, "coverage_high": None}
    if task.problem == "regression":
        said = np.column_stack(
            [
                rows["low"].fill_null(-math.inf).to_numpy(),
                rows["high"].fill_null(math.inf).to_numpy(),
            ]
        )
    else:
        classes = task.class_names or ("no", "yes")
        said = np.column_stack([rows["set"].list.contains(label).to_numpy() for label in classes])
    held = Held.of(task, target, said, rows["subject_id"].to_numpy())
    return {
        "stated": stated,
        "coverage": round(held.coverage, 4),
        "coverage_high": round(held.high, 4),
    }


def _chance_of_fall(now: Score, then: Mapping[str, Any]) -> float:
    """The probability of a score so far below the earlier one, if nothing had changed: one-sided,
    of normal errors.
    """
    from scipy.stats import norm

    widths = [now.high - now.low, then["high"] - then["low"]]
    error = math.hypot(*widths) / _WIDTH
    return float(norm.cdf((now.value - then["value"]) / error)) if error > 0 else 1.0


def _fallen(records: list[dict[str, Any]], config: MonitoringConfig) -> list[dict[str, Any]]:
    from scipy.stats import false_discovery_control

    q_values = false_discovery_control([record.pop("p") for record in records]) if records else []
    for record, q in zip(records, q_values, strict=True):
        fell = bool(q < config.fdr and record["then"] - record["value"] > config.drop)
        high = record.pop("coverage_high")
        stated = record["stated"]
        uncovered = bool(
            stated is not None and high < stated and stated - record["coverage"] > config.drop
        )
        record |= {"q": _significant(q), "fell": fell, "uncovered": uncovered}
    return records


# In words -----------------------------------------------------------------------------------------


def verdicts(found: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
    """Each check's outcome and a sentence: inputs, missingness, scores, performance."""
    if found["reason"] and not found["performance"]:
        nothing = (True, said(f"{found['reason']}."))
        return dict.fromkeys(("inputs", "missingness", "scores", "performance"), nothing)
    verdict_of = {
        check: _changed(found, key, what)
        for check, (key, what) in {
            "inputs": ("inputs", "feature"),
            "missingness": ("missing", "feature"),
            "scores": ("scores", "task"),
        }.items()
    }
    worse = [
        f"{format_name(record['task'])} {format_number(record['value'])}, was {format_number(record['then'])}"
        + ((
            f"; {record['coverage']:.0%} of the labels within what was said, stated "
            f"{record['stated']:.0%}"
        )
           if record["uncovered"] else "")
        for record in found["performance"] if record["fell"] or record["uncovered"]
    ]  # fmt: skip
    if not found["performance"]:
        verdict_of["performance"] = (
            True,
            said("No task has enough labels that have arrived since."),
        )
        return verdict_of
    judged = pluralize(len(found["performance"]), "task")
    good = (
        f"{judged} with enough labels that have arrived since: none is worse than at the "
        "registration."
    )
    verdict_of["performance"] = (
        not worse,
        f"Worse since the registration: {join_words(worse)}." if worse else good,
    )
    return verdict_of


def _changed(found: Mapping[str, Any], key: str, what: str) -> tuple[bool, str]:
    if found["reason"]:
        return True, said(f"{found['reason']}.")
    changed = [record for record in found[key] if record["changed"]]
    compared = f"{pluralize(len(found[key]), what)} compared over {found['new']:,} new samples"
    if not changed:
        return True, f"{compared}: none has changed."
    farthest = [
        f"{format_name(record['name'])} (distance {record['distance']:.2f})"
        for record in changed[:5]
    ]
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return False, f"{compared}: {len(changed)} changed: {', '.join(farthest)}{more}."
