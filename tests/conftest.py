"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shared_folder import SharedFolder

if TYPE_CHECKING:
    from demo_run import DemoRun
    from playwright.sync_api import Browser

# Two torch threads beside another busy process give less than one (docs/decisions/0003).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

CHROMIUM = Path("/usr/bin/chromium")
# Without these Chromium looks for hosts of its own at every start.
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
# The words that the small checkpoint of the tests knows.
WORDS = [a + b for a in "bcdfghklm" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
SHARED = Path(__file__).parents[2] / "shared"


# What connecting to an out-folder leaves in this process, where a real one would end: the next
# would write into it.
_LEFT_BEHIND = ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "M3H_OUT", "M3H_MLFLOW_PAGE")


# Where every test starts a process, a server or a browser.
_SLOW_FOLDERS = {"browser": 40, "faults": 60, "security": 30}
_SLOW_FIXTURES = {"browser", "demo_run", "mimic_demo", "postgres"}
_SECONDS = 5


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow without saying so, and begin with the longest modules: one that begins
    last is waited for alone.
    """
    seconds: dict[Path, float] = {}
    for item in items:
        of_folder = _SLOW_FOLDERS.get(item.path.parent.name)
        uses = _SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("slow") is None and (of_folder or uses):
            item.add_marker(pytest.mark.slow(of_folder or _SECONDS))
        slow = item.get_closest_marker("slow")
        own = (slow.args or (_SECONDS,))[0] if slow else 0
        seconds[item.path] = max(own, seconds.get(item.path, 0))
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="module", autouse=True)
def starts_clean() -> None:
    """No module of tests meets the out-folder of the one before."""
    if "mlflow" in sys.modules:  # it remembers its store outside the environment too
        sys.modules["mlflow"].set_tracking_uri(None)
    for variable in _LEFT_BEHIND:
        os.environ.pop(variable, None)


@pytest.fixture(autouse=True)
def leaves_clean() -> Iterator[None]:
    """Nor a test that of the test before."""
    before = {variable: os.environ.get(variable) for variable in _LEFT_BEHIND}
    yield
    for variable, value in before.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value


@pytest.fixture(scope="session")
def mimic_demo() -> Path:
    """The 100 real patients of the MIMIC-IV demo, where they lie beside the checkout."""
    folder = SHARED / "data" / "mimic-iv-demo"
    if not folder.is_dir():
        pytest.skip(f"the MIMIC-IV demo is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def mimic_demo_tables(mimic_demo, tmp_path_factory) -> SharedFolder:
    """Their tables, read once for all workers: to read, or to copy."""
    from demo_tables import read_demo

    shared = SharedFolder(tmp_path_factory, "mimic-demo-tables")
    return shared.make(lambda to: read_demo(mimic_demo, to))


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory) -> DemoRun:
    """A finished run of the tiny demo, one for all workers: to read, or to copy."""
    from demo_run import DemoRun, make

    return DemoRun(SharedFolder(tmp_path_factory, "demo-run").make(make))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; what needs it is skipped, saying so, where there is none."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="the package playwright is not installed"
    )
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET.split())
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A checkpoint as transformers writes it, of a size for tests."""
    import torch

    from m3h_core import _torchvision_guard  # noqa: F401
    from transformers import BertConfig, BertModel, BertTokenizer  # isort: skip

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *"abcdefghijklmnopqrstuvwxyz.",
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def postgres() -> Iterator[tuple[str, str]]:
    """Two new databases, for Dagster and for MLflow; what needs them is skipped, saying so, where
    no server runs.
    """
    import uuid

    import sqlalchemy as sa

    server = os.environ.get("M3H_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432")
    names = [f"m3h_test_{uuid.uuid4().hex}_{of}" for of in ("dagster", "mlflow")]
    try:
        engine = sa.create_engine(
            f"{server}/postgres", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        with engine.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except (sa.exc.OperationalError, ModuleNotFoundError):
        pytest.skip(
            f"no PostgreSQL at {server} (name one in M3H_TEST_POSTGRES), or no psycopg2 (pip "
            "install 'm3h[postgres]')"
        )
    yield f"{server}/{names[0]}", f"{server}/{names[1]}"
    with engine.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
