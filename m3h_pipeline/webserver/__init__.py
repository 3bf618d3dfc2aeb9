"""Dagster's pages behind a guard: ``python -m m3h_pipeline.webserver``."""
