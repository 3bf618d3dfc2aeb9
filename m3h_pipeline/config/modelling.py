"""Sections about the models: encoders, training, and what is measured beside it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_type_hints

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    create_model,
    field_validator,
    with_config,
)

from m3h_core.config import FitConfig, check_choice
from m3h_core.embedders import embedder_class
from m3h_pipeline.config.section import Section


class EmbeddingConfig(Section):
    """The encoders, which turn each modality into vectors."""

    timeseries: Literal["statistics", "learned"] = "statistics"
    """Statistics of each signal, or a network that is trained on the events."""
    series_steps: int = Field(24, ge=0, le=96)
    """Steps of equal length in which a recurrent network reads the last 24 hours of the time
    series, beside the joint network, which reads their vectors; 0: there is no such network.
    """
    language: str = "minilm"
    """The encoder of notes: minilm (installed), a folder that holds a transformers checkpoint, or a
    name on the model hub.
    """
    language_revision: str = ""
    """The revision of a checkpoint on the model hub. Empty: its newest."""
    vision: str = "efficientnet-lite0"
    """The encoder of images: efficientnet-lite0 (installed, trained on ImageNet), or a model by its
    name in timm, with vision_weights.
    """
    vision_weights: str = ""
    """The weights of a timm model: a file, or "pretrained" for those of the model hub. Empty with
    efficientnet-lite0, which has its own.
    """
    image_size: int = Field(0, ge=0, le=1024)
    """Pixels a side of an image; 0: 224, which the installed encoder was trained with."""
    cache_gb: float = Field(50, ge=0)
    """Bounds cache/embeddings, where the vectors of notes and images are kept from night to night;
    0: none is kept.
    """
    encoders: dict[str, str] = Field({})
    """For a modality, the name of a class in m3h_core/embedders that takes the place of its usual
    encoder.
    """

    @field_validator("encoders")
    @classmethod
    def _known(cls, encoders: dict[str, str]) -> dict[str, str]:
        for modality, name in encoders.items():
            embedder_class(modality, name)
        return encoders


def _read_model_fields() -> dict[str, Any]:
    """FitConfig's fields as pydantic's, with the docstrings below them, but for those of
    [training] and the machine, and for the steps of a series, which [embedding] has.
    """
    documented = with_config(ConfigDict(use_attribute_docstrings=True))(FitConfig)
    about = TypeAdapter(documented).json_schema()["properties"]
    types = get_type_hints(FitConfig)
    return {
        field.name: (
            types[field.name],
            Field(field.default, description=about[field.name]["description"]),
        )
        for field in fields(FitConfig)
        if field.name not in ("seed", "epochs", "device", "steps")
    }


_ModelFields: Any = create_model("_ModelFields", __base__=Section, **_read_model_fields())


class ModelConfig(_ModelFields):
    """The network and how it learns, for the joint model, the single-task models and TIM. The
    recurrent network has a form of its own, and takes from here how it learns.

    Its settings are fields of `m3h_core.FitConfig`, which says what each means and may be.
    """

    @field_validator("weighting", mode="before")
    @classmethod
    def _is_known(cls, weighting: object) -> object:
        # Before pydantic, which knows no reason: a removed one is named.
        check_choice("weighting", str(weighting))
        return weighting

    @field_validator("*")
    @classmethod
    def _is_possible(cls, value: Any, info: ValidationInfo) -> Any:
        FitConfig(**{str(info.field_name): value})
        return value


class TrainingConfig(Section):
    """Training of networks and trees, and how the model is judged."""

    seed: int = 0
    """Of all that is drawn at random."""
    epochs: int = Field(60, ge=1)
    """The most passes over the training rows or, where they are more, over 16,384 of them that are
    drawn anew; a network may stop earlier.
    """
    tree_rounds: int = Field(300, ge=1)
    """The most trees that a model of boosted trees may have."""
    bootstrap: int = Field(500, ge=100)
    """Resamples of the judged patients that an interval is made of."""
    coverage: float = Field(0.9, gt=0, lt=1)
    """How often a set or an interval of the model is to hold the truth."""


class EvaluationConfig(Section):
    """Which patients the model is judged by."""

    folds: int = Field(3, ge=0, le=20)
    """Into how many parts the patients are cut. So many models are trained, each without one part,
    by which it is judged; their mean is shipped. Below 2: one model, judged on the test split. So
    is a cohort whose split is given by the data, or holds out the last months.
    """
    most_to_cross_fit: int = Field(20_000, ge=0)
    """With more samples than these one model is trained, and judged on the test split: it is large
    enough.
    """


class TimConfig(Section):
    """Task interaction: which task helps which, measured how and at what cost."""

    method: Literal["pairwise", "shapley"] = "pairwise"
    """What a task is added to: the other task alone, or all sets of the others (Shapley values),
    which takes many more models.
    """
    network: Literal["light", "model"] = "light"
    """What the matrix is measured with: a small network on the leading principal components of the
    inputs, of which every pair can be trained, or the trained model's own, whose single-task and
    joint models are then used as they are.
    """
    tasks: int = Field(0, ge=0)
    """How many tasks, those with most labels first; 0: all."""
    samples: int = Field(20_000, ge=100)
    """The most samples that it is measured on; of more, so many are drawn by patient."""
    seeds: int = Field(3, ge=1)
    """How often a single-task model, and a pair that may survive, is trained in each fold, from
    another start.
    """
    fdr: float = Field(0.05, gt=0, lt=1)
    """The false discovery rate of the effects that survive."""
    groups: int = Field(2, ge=0)
    """The most models that the tasks are tried in, with the model's own network, where an effect
    survives; below 2: not tried.
    """
    leave_out: int = Field(2, ge=0)
    """How many tasks, those with the largest effects that survive, are left out of the joint model
    in turn, with the network of the pairs, so that the two can be compared.
    """

    @field_validator("method", mode="before")
    @classmethod
    def _was_removed(cls, method: object) -> object:
        if method in ("projection", "attention", "affinity"):
            raise ValueError(
                f"{method!r} was removed: it agreed with retrained pairs hardly better than chance "
                "(docs/decisions/0037-tim.md); write pairwise or shapley"
            )
        return method


class ModalitiesConfig(Section):
    """What each modality adds."""

    retrain: bool = False
    """Also train the model anew on each subset of the modalities: with four of them, 14 more
    trainings a night and fold.
    """
