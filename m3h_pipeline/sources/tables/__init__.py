"""A hospital's own tables, in the format of docs/sources/tables.md, to the canonical tables.

The files are the canonical tables already; what is done here is to read them out of core, to
convert what text says (times to UTC, class names to indices, units where they are known), and to
say of every row what became of it.

When a record became known (``available_time``): the column of that name; where it is absent or
empty, the record's own time; and where either is a bare date, the end of that day, since nobody
knows how late on that day it was.
"""

from m3h_pipeline.sources.tables.source import Tables

__all__ = ["Tables"]
