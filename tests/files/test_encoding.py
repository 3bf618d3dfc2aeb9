"""A text that is not UTF-8: its encoding is named, with a command that mends it; single broken rows
are quarantined.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mimic_folder import admission, diagnosis, measurement, note
from mimic_folder import write as write_mimic
from passage import Passage
from tables_folder import hospital, write

from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError
from m3h_pipeline.files.encoding import refuse_another_encoding

WORDS = "Müller, Größe über 38,5 °C"


def refusal(file: Path, limit: int | None = None) -> str:
    with pytest.raises(InputError) as error:
        refuse_another_encoding(file, limit)
    return str(error.value)


def with_notes(stays: int = 40) -> dict[str, list[dict[str, Any]]]:
    tables = hospital(stays)
    for row in tables["notes"]:
        row["text"] = WORDS
    return tables


def run_command(message: str, file: Path) -> None:
    """Do what the message says."""
    (command,) = re.findall(r"convert it with `(.*)`, put the new file in its place", message)
    subprocess.run(command, shell=True, check=True)
    new = next(other for other in file.parent.iterdir() if ".utf8." in other.name)
    new.replace(file)


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv")
@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("latin-1", "LATIN1"),
        ("cp850", "CP850"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_file_in_another_encoding_is_named_and_the_command_converts_it(
    tmp_path, encoding, name, suffix
):
    root = write(tmp_path / "a hospital", with_notes(), suffix=suffix)
    file = root / f"notes{suffix}"
    whole = gzip.decompress(file.read_bytes()) if suffix == ".csv.gz" else file.read_bytes()
    other = whole.decode().encode(encoding)
    file.write_bytes(gzip.compress(other) if suffix == ".csv.gz" else other)
    with pytest.raises(InputError) as error:
        open_source("tables", root).check()
    message = str(error.value)
    assert re.search(
        rf"{re.escape(str(file))} is (in {name}, )?not in UTF-8|in {name}, not in UTF-8", message
    )
    assert f"iconv -f {name} -t UTF-8" in message
    assert "Müller" not in message
    run_command(message, file)
    open_source("tables", root).check()
    mended = gzip.decompress(file.read_bytes()) if suffix == ".csv.gz" else file.read_bytes()
    assert mended.removeprefix("\ufeff".encode()) == whole


def test_single_broken_rows_go_to_quarantine_as_before(tmp_path):
    tables = with_notes()
    root = write(tmp_path / "hospital", tables)
    lines = (root / "notes.csv").read_bytes().split(b"\n")
    for i in range(1, 10):
        lines[i] = lines[i].decode().encode("latin-1")
    (root / "notes.csv").write_bytes(b"\n".join(lines))
    open_source("tables", root).check()
    refuse_another_encoding(root / "notes.csv", limit=None)
    # More of them, but fewer than rows in UTF-8: it is no whole file that was saved wrongly.
    for i in range(10, 16):
        lines[i] = lines[i].decode().encode("latin-1")
    (root / "notes.csv").write_bytes(b"\n".join(lines))
    refuse_another_encoding(root / "notes.csv", limit=None)


def test_what_begins_in_ascii_is_found_when_it_is_read(tmp_path):
    """The check of the headers sees the first megabyte alone."""
    tables = hospital(60)
    padding = "x" * 40_000
    for i, row in enumerate(tables["notes"]):
        row["text"] = padding if i < 30 else WORDS
    root = write(tmp_path / "hospital", tables)
    file = root / "notes.csv"
    file.write_bytes(file.read_text().encode("latin-1"))
    open_source("tables", root).check()
    with pytest.raises(
        InputError, match=r"30 of its first 61 lines are in another encoding, probably LATIN1"
    ):
        Passage(open_source("tables", root), tmp_path / "out")


def test_a_header_in_another_encoding(tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes("größe,b\n1,2\n".encode("latin-1"))
    assert "its header is in another encoding, probably LATIN1" in refusal(file)


def test_mimic_iv_is_read_the_same_way(tmp_path):
    people = [
        {"subject_id": i, "gender": "F", "anchor_age": 60, "anchor_year": 2150, "dod": None}
        for i in range(20)
    ]
    stays = [admission(i, i, "2150-03-01 08:00:00", "2150-03-06 08:00:00") for i in range(20)]
    notes = [note(f"n{i}", i, i, "2150-03-01 10:00:00", None, WORDS) for i in range(20)]
    tables = {"hosp/patients": people, "hosp/admissions": stays, "note/radiology": notes}
    tables["hosp/diagnoses_icd"] = [diagnosis(0, "4280", 9)]
    tables["hosp/labevents"] = [measurement(0, 0, "2150-03-01 10:00:00", 50912, 1.1, "mg/dL")]
    tables["icu/chartevents"] = [measurement(0, 0, "2150-03-01 10:00:00", 220045, 80, "bpm")]
    write_mimic(tmp_path / "m", tables, ".csv")
    file = tmp_path / "m" / "note" / "radiology.csv"
    file.write_bytes(file.read_text().encode("latin-1"))
    with pytest.raises(InputError, match=r"radiology\.csv is not in UTF-8 .* probably LATIN1"):
        open_source("mimic-iv", tmp_path / "m").check()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=30), max_size=40
    )
)
def test_utf8_is_never_refused(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("text") / "table.csv"
    file.write_bytes("\n".join(["a,b", *rows]).encode())
    refuse_another_encoding(file)


def test_a_binary_accident_is_no_encoding(tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes(b"a,b\n" + b"".join(b"1,\xfe\xfe\x81\x8d\xff\xff\n" for _ in range(20)))
    refuse_another_encoding(file)
