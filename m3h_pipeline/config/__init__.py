"""``<out>/m3h.toml``: one file, read by the command line and by Dagster alike."""

from m3h_pipeline.config.data import (
    DEMO_SNAPSHOT,
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
from m3h_pipeline.config.sections import Config
from m3h_pipeline.config.sources import (
    SOURCE_NAMES,
    build_settings,
    find_spill_folder,
    open_configured_source,
    open_source,
)
from m3h_pipeline.config.store import (
    configure_run,
    create,
    keep_snapshot,
    load,
    save,
    set_snapshot,
)

__all__ = [
    "DEMO_SNAPSHOT",
    "SOURCE_NAMES",
    "CohortConfig",
    "Config",
    "EmbeddingConfig",
    "EvaluationConfig",
    "GateConfig",
    "InputsConfig",
    "LauncherConfig",
    "ModalitiesConfig",
    "ModelConfig",
    "MonitoringConfig",
    "NightlyConfig",
    "NotifyConfig",
    "RetentionConfig",
    "ReviewConfig",
    "SourceConfig",
    "TimConfig",
    "TrainingConfig",
    "ValidationConfig",
    "build_settings",
    "configure_run",
    "create",
    "find_spill_folder",
    "keep_snapshot",
    "load",
    "open_configured_source",
    "open_source",
    "save",
    "set_snapshot",
]
