"""What a launcher starts: ``python -m m3h_pipeline.jobs.<name> --config job.json``.

A job reads one JSON file and writes one folder. It runs the same by hand as under Dagster, where
its progress appears in the run's log through Dagster Pipes. Jobs import m3h_core, dagster_pipes and
mlflow, never dagster.
"""
