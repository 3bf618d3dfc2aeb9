"""A hospital's own tables (csv.gz, csv or Parquet) read into DuckDB as text, each row with its
number in the file.

Reading never stops at a wrong row. A file that is not what a strict CSV reader takes (broken UTF-8,
a wrong number of fields, unbalanced quotes) is read through a repaired copy in which such rows are
marked, and no other row is lost.
"""

from m3h_pipeline.sources.raw_tables.reader import RawReader
from m3h_pipeline.sources.raw_tables.table import SUFFIXES, RawTable, find_file, open_table

__all__ = ["SUFFIXES", "RawReader", "RawTable", "find_file", "open_table"]
