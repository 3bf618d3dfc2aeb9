"""MLflow's registry: runs, versions, gate, review, audit, and the model that is served."""
