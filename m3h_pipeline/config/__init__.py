"""``<out>/m3h.toml``: one file, read by the command line and by Dagster alike."""

from m3h_pipeline.config.data import (
    DEMO_SNAPSHOT,
    CohortConfig,
    RetentionConfig,
    SourceConfig,
    ValidationConfig,
)
from m3h_pipeline.config.launching import LauncherConfig
from m3h_pipeline.config.modelling import (
    EmbeddingConfig,
    ModalitiesConfig,
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
from m3h_pipeline.config.sources import NAMES, open_source, settings, source, spill
from m3h_pipeline.config.store import (
    dated,
    dated_as_before,
    for_run,
    load,
    new,
    save,
)

__all__ = [
    "DEMO_SNAPSHOT",
    "NAMES",
    "CohortConfig",
    "Config",
    "EmbeddingConfig",
    "GateConfig",
    "LauncherConfig",
    "ModalitiesConfig",
    "MonitoringConfig",
    "NightlyConfig",
    "NotifyConfig",
    "RetentionConfig",
    "ReviewConfig",
    "SourceConfig",
    "TimConfig",
    "TrainingConfig",
    "ValidationConfig",
    "dated",
    "dated_as_before",
    "for_run",
    "load",
    "new",
    "open_source",
    "save",
    "settings",
    "source",
    "spill",
]
