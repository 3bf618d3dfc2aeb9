"""The templates of all pages, and the filters that they write numbers with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m3h_pipeline import wording
from m3h_pipeline.evaluation.phenotypes import write_verdict

if TYPE_CHECKING:
    import jinja2


def build_environment() -> jinja2.Environment:
    """What is undefined is an error, text is escaped, the filters are those of `wording`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("m3h_pipeline.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=wording.format_number,
        interval=wording.format_interval,
        count=wording.format_count,
        part=wording.format_part,
        share=wording.format_share,
        name=wording.format_name,
        metric=wording.format_metric,
        plural=wording.pluralize,
        verdict=write_verdict,
    )
    return environment
