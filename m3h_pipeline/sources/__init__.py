"""Sources: a place that holds a hospital's data, and how it becomes the canonical tables."""

from m3h_pipeline.sources.base import Settings, Source, extract

__all__ = ["Settings", "Source", "extract"]
