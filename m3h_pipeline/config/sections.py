"""All sections of ``m3h.toml``, in the order of the file."""

from __future__ import annotations

from m3h_pipeline.config.data import (
    CohortConfig,
    InputsConfig,
    RetentionConfig,
    SourceConfig,
    ValidationConfig,
)
from m3h_pipeline.config.launching import LauncherConfig
from m3h_pipeline.config.modelling import (
    EmbeddingConfig,
    EvaluationConfig,
    ModalitiesConfig,
    ModelConfig,
    TimConfig,
    TrainingConfig,
)
from m3h_pipeline.config.nights import (
    GateConfig,
    MonitoringConfig,
    NightlyConfig,
    NotifyConfig,
    ReviewConfig,
)
from m3h_pipeline.config.section import Section


class Config(Section):
    """All of ``m3h.toml``."""

    source: SourceConfig = SourceConfig()
    cohort: CohortConfig = CohortConfig()
    inputs: InputsConfig = InputsConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tim: TimConfig = TimConfig()
    modalities: ModalitiesConfig = ModalitiesConfig()
    launcher: LauncherConfig = LauncherConfig()
    validation: ValidationConfig = ValidationConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    retention: RetentionConfig = RetentionConfig()
    gate: GateConfig = GateConfig()
    review: ReviewConfig = ReviewConfig()
    nightly: NightlyConfig = NightlyConfig()
    notify: NotifyConfig = NotifyConfig()
