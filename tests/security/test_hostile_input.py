"""Files that are made to hang, to fill the memory, or to pass for something else: each is answered
in a paragraph.
"""

from __future__ import annotations

import gzip
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tables_folder
from passage import Passage
from PIL import Image

from m3h_core.embedders.image_files import UnreadableImage, read_image
from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError
from m3h_pipeline.files.yaml_file import read_yaml

# Far more than a refusal needs on a busy machine, far less than what these files ask for.
SECONDS = 60
MEMORY = 6_000_000_000

EXTRACT = """
import sys
from pathlib import Path
from m3h_pipeline.errors import InputError
from m3h_pipeline.config import open_source
from m3h_pipeline.sources import Settings, extract
source = open_source("tables", Path(sys.argv[1]))
try:
    source.check()
    extract(source, Path(sys.argv[2]), Settings(memory_limit="1GB"))
except InputError as error:
    sys.exit(f"error: {error}")
"""


def extracted(hospital: Path) -> subprocess.CompletedProcess[str]:
    """What a process says that reads the folder, with little memory and time."""
    to = hospital.parent / "out"
    to.mkdir()
    return subprocess.run(
        [sys.executable, "-c", EXTRACT, hospital, to],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )


def refused(hospital: Path) -> str:
    """The paragraph that it ends with; nothing is left of what was written."""
    result = extracted(hospital)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()
    assert len(message) == 1, result.stderr
    assert not list((hospital.parent / "out").rglob("*spill*"))
    return message[0]


@pytest.fixture
def hospital(tmp_path) -> Path:
    return tables_folder.write(tmp_path / "hospital", tables_folder.hospital())


# No regular files ---------------------------------------------------------------------------------


def put_socket(file: Path) -> None:
    # The path of a socket may have 107 characters.
    before = Path.cwd()
    os.chdir(file.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(file.name)
    finally:
        os.chdir(before)


KINDS: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": put_socket,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link that leads nowhere": lambda file: file.symlink_to("gone"),
}


@pytest.mark.parametrize("name", ["events.csv", "labels.csv.gz", "cohort.yaml"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_and_never_read(hospital, name, kind):

    (hospital / name.removesuffix(".gz")).unlink()
    KINDS[kind](hospital / name)
    began = time.monotonic()
    with pytest.raises(InputError, match=kind):
        open_source("tables", hospital).check()
    assert time.monotonic() - began < SECONDS


def test_a_pipe_does_not_hang_the_command(hospital, tmp_path):
    (hospital / "events.csv").unlink()
    os.mkfifo(hospital / "events.csv")
    command = [
        sys.executable,
        "-m",
        "m3h_pipeline.cli.main",
        "run",
        "--source",
        "tables",
        "--path",
        hospital,
    ]
    result = subprocess.run(
        [*command, "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert result.returncode == 1
    assert "events.csv is a named pipe, not a file" in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


# YAML ---------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "timezone: UTC\nfeatures: [age]\ntimezone: Europe/Berlin\n",
            r"the key timezone is there twice (lines 1 and 3)",
        ),
        (
            "tasks:\n- {name: a, problem: binary, name: b}\n",
            "the key name is there twice (lines 2 and 2)",
        ),
        (LAUGHS, "its aliases (*) unfold to more than 100,000 entries"),
        ("a: &a [*a]\n", "an alias (*) stands within what it refers to"),
        ("a: " + "[" * 100_000, "more than 50 levels within each other"),
        ("- " * 100_000, "more than 50 levels within each other"),
        ("a: 2024-02-31\n", "has a date or a number that is none"),
        (f"a: {'9' * 10_000}\n", "has a date or a number that is none"),
        ("a: !!python/object/apply:os.system ['id']\n", "could not determine a constructor"),
        ("? [a, b]\n: 1\n", "a key must be a word"),
    ],
    ids=[
        "twice",
        "twice within",
        "laughs",
        "itself",
        "deep",
        "deep lists",
        "no date",
        "no number",
        "code",
        "odd key",
    ],
)
def test_a_yaml_file_that_is_made_to_deceive(tmp_path, text, says):

    file = tmp_path / "cohort.yaml"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(InputError) as error:
        read_yaml(file)
    assert says in str(error.value)
    assert time.monotonic() - began < SECONDS


def test_aliases_and_merged_keys_that_mean_something_are_read(tmp_path):

    file = tmp_path / "cohort.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2}}


# Tables that have no end --------------------------------------------------------------------------

MEGABYTE = 1_000_000
HEADER = b"stay_id,time,code,value,unit\n"
ROW = b"s1,2024-01-11 09:00:00,lactate,1.5,mmol/L\n"


def pack(file: Path, *parts: tuple[bytes, int]) -> None:
    """A gzip file of parts that come so often each; each is packed once."""
    with file.open("wb") as to:
        for text, times in parts:
            packed = gzip.compress(text, 9)
            for _ in range(times):
                to.write(packed)


BOMBS = {
    "one line": ([(HEADER, 1), (b"x" * 50 * MEGABYTE, 2000)], "has a line of more than 100 MB"),
    "one header": (
        [(b"x" * 50 * MEGABYTE, 2000)],
        "has a first line of more than 1,000,000 characters",
    ),
    "rows": ([(HEADER, 1), (ROW * 100_000, 25_000)], "unpacks to more than 250 times its size"),
    "empty lines": ([(HEADER, 1), (b"\n" * 50 * MEGABYTE, 2000)], "has a header but no rows"),
    "zeros": ([(HEADER + ROW, 1), (b"\0" * 50 * MEGABYTE, 2000)], "has a line of more than 100 MB"),
    "columns": (
        [(HEADER[:-1] + b",x" * 100_000 + b"\n", 1), (b"1\n", 1)],
        "columns, more than the 20,000",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_table_that_unpacks_without_end_is_refused(hospital, bomb):
    """A hundred gigabytes in a file of one or a hundred megabytes."""
    parts, says = BOMBS[bomb]
    (hospital / "events.csv").unlink()
    pack(hospital / "events.csv.gz", *parts)
    assert says in refused(hospital)


def test_a_sparse_file_is_refused(hospital):
    with (hospital / "events.csv").open("ab") as events:
        events.truncate(100_000 * MEGABYTE)
    assert "has a line of more than 100 MB" in refused(hospital)


# Features -----------------------------------------------------------------------------------------


def with_features(root: Path, count: int) -> Path:
    tables = tables_folder.hospital(30)
    names = [f"lab{i}" for i in range(count)]
    for i, sample in enumerate(tables["samples"]):
        sample.update(dict.fromkeys(names, i + 0.5))
    return tables_folder.write(root, tables, tables_folder.COHORT | {"features": names})


def test_more_features_than_can_be_read_are_refused(tmp_path):
    message = refused(with_features(tmp_path / "hospital", 3000))
    assert "cohort.yaml names 3,001 features and audit columns, more than the 500" in message


def test_a_hundred_features_are_read_in_seconds(tmp_path):
    """They took minutes: DuckDB planned several joins for each."""
    result = extracted(with_features(tmp_path / "hospital", 100))
    assert result.returncode == 0, result.stderr


# Images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
def test_an_image_that_is_no_file_is_not_read(tmp_path, kind):
    KINDS[kind](tmp_path / "image.png")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_image(tmp_path / "image.png", 32)


def test_images_out_of_the_folder_and_pipes_are_quarantined(tmp_path):
    tables = tables_folder.hospital()
    time_of_image = "2024-01-11 09:00:00"
    paths = ["../secret.png", "images/../../secret.png", "pipe.png", "own..png"]
    tables["images"] = [
        tables_folder.image("s1", f"i{i}", time_of_image, path) for i, path in enumerate(paths)
    ]
    found_here = Passage(open_source("tables", with_images(tmp_path, tables)), tmp_path / "out")
    assert found_here.valid("images")["image_id"].to_list() == ["i3"]
    reasons = [reason for _, reason in found_here.reasons("images")]
    assert sum("path: leads out of the folder" in reason for reason in reasons) == 2
    assert sum("There must be a readable file at the path" in reason for reason in reasons) == 1


def with_images(root: Path, tables: tables_folder.Tables) -> Path:
    """A hospital with one image and one pipe, and a file beside it that is nobody's image."""
    folder = tables_folder.write(root / "hospital", tables)
    Image.new("L", (8, 8)).save(root / "secret.png")
    Image.new("L", (8, 8)).save(folder / "own..png")
    os.mkfifo(folder / "pipe.png")
    return folder
