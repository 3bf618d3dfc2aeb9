"""What lies in an out-folder: step folders, snapshots, lineage, locks, the DuckDB workbench."""
