"""Dagster assets, one folder a stage. Thin: read inputs, call one thing, return metadata.

No module here imports torch, transformers, timm, mlflow or great_expectations at module level: each
Dagster process loads these modules, and those libraries take seconds.
"""
