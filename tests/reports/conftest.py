"""What the tests of reports share."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import pytest
import vl_convert


@pytest.fixture(scope="session", autouse=True)
def each_chart_is_drawn_once() -> Iterator[None]:
    """Most of these tests change one thing of a page with forty charts: the others are drawn as
    before, which is three fifths of the seconds of a page.
    """
    draw = vl_convert.vegalite_to_svg

    @functools.cache
    def drawn(specification: str) -> str:
        return draw(json.loads(specification))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vl_convert, "vegalite_to_svg", lambda chart: drawn(json.dumps(chart)))
        yield
