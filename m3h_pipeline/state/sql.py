"""SQL in files beside the Python that runs it: Jinja templates, the way dbt writes them.

A value that is not written in a template is put in by ``literal`` (a text) or ``identifier`` (the
name of a column), which quote it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3h_pipeline.state.database import quote_identifier, quote_literal

if TYPE_CHECKING:
    import jinja2


def render_sql(file: Path, /, **values: Any) -> str:
    """The SQL of a template with these values; a name that has no value is an error.

    Templates of one folder can import each other's macros by their file names.
    """
    return _environment(file.parent).get_template(file.name).render(values)


@cache
def _environment(folder: Path) -> jinja2.Environment:
    import jinja2  # the command line reads the modules of sources for every command

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["literal"] = quote_literal
    environment.filters["identifier"] = quote_identifier
    return environment
