"""What lies in an out-folder: step folders, snapshots, lineage, locks, DuckDB to work in."""
