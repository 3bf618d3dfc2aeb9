"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from launched import serve_mlflow


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory) -> Iterator[str]:
    """The address of an MLflow server, for jobs that run where no local store can be."""
    with serve_mlflow(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri
