"""Dagster assets, one file a stage. Thin: take inputs, call one thing, return metadata.

An asset's parameters are its inputs: the steps of the assets that they name, which the IO manager
hands over (io_manager.py).

No module here imports torch, transformers, timm, mlflow or great_expectations at module level: each
Dagster process loads these modules, and those libraries take seconds.
"""
