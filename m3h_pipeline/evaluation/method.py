"""How the figures of a night were made, in the words of page, model card and last screen: on whom
the model was judged, and what that leaves out.
"""

from __future__ import annotations

from m3h_pipeline.wording import format_count


def name_evaluation(n_folds: int, n_judged: int) -> str:
    """On whom the model is judged; ``n_folds``: how many folds the cohort has, below 2 where it is
    not cross-fitted, ``n_judged``: the samples that are judged.

    >>> name_evaluation(0, 213)
    'on the test split of 213 samples, whose patients the model did not see'
    >>> name_evaluation(3, 1437)
    'cross-fitted in 3 folds: each patient is judged by a model that did not see them'
    """
    if n_folds < 2:
        return (
            f"on the test split of {format_count(n_judged)} samples, whose patients the model did "
            "not see"
        )
    return (
        f"cross-fitted in {n_folds} folds: each patient is judged by a model that did not see them"
    )


def describe_evaluation(n_folds: int, n_judged: int) -> str:
    """The same as a paragraph, with what it means for the registered model."""
    name = name_evaluation(n_folds, n_judged)
    text = f"{name[:1].upper()}{name[1:]}."
    if n_folds < 2:
        return text
    return (
        f"{text} The model that is registered is the mean of the {n_folds}, so these figures judge "
        "the recipe, not its exact weights."
    )


def describe_evaluation_limits(n_folds: int, n_judged: int) -> list[str]:
    """What a reader must know of the same before trusting a number."""
    limits = [
        f"{format_count(n_judged)} samples are judged: intervals are wide, and with one interval "
        "a task some will exclude zero by chance.",
        "Each arm was trained from one seed: intervals come from resampling patients, not from "
        "repeated training.",
    ]
    if n_folds < 2:
        return limits
    return [
        f"What is registered is the mean of {n_folds} models, each of which learned without the "
        "patients of one fold. No patient of this cohort is new to all of them, so none can judge "
        "the mean itself.",
        "The encoders were fitted once, without labels, on the training split, whose patients are "
        "judged as well: their vectors may fit these patients a little better than new ones.",
        "Phenotypes and task interaction are those of the first fold's models, judged on its "
        "patients alone.",
        *limits,
    ]
