"""The road of a hospital with its own tables: told what is wrong, mended as told, and a report at
its end.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from messy_hospital import MISSING_VALUE, write_messy_hospital
from page_cells import check_numbers

pytestmark = pytest.mark.slow(100)

M3H = [sys.executable, "-m", "m3h_pipeline.cli.main"]
PAGE_FILES = ("metrics", "tim", "trust", "detail")
# As little training as still tells that one score helps to learn another.
SETTINGS = {
    "training": {"epochs": 20, "tree_rounds": 20, "bootstrap": 100},
    "tim": {"seeds": 3, "tasks": 4, "groups": 0, "leave_out": 0},
    "launcher": {"workers": 1},
}


@dataclass(frozen=True)
class Journey:
    """What the three runs said, and where the results lie."""

    hospital: Path
    out: Path
    refused: subprocess.CompletedProcess[str]
    stopped: subprocess.CompletedProcess[str]
    finished: subprocess.CompletedProcess[str]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*M3H, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


def _set(toml: Path, section: str, setting: str, value: str) -> None:
    """Change one line of m3h.toml, as a person does in an editor."""
    before, header, rest = toml.read_text().partition(f"\n[{section}]\n")
    assert header, section
    body, count = re.subn(rf"^{setting} = .*$", f"{setting} = {value}", rest, count=1, flags=re.M)
    assert count == 1, setting
    toml.write_text(before + header + body)


@pytest.fixture(scope="session")
def journey(tmp_path_factory) -> Journey:
    """From `m3h init` to the report; each obstacle is taken away by what its message says."""
    root = tmp_path_factory.mktemp("messy")
    hospital = write_messy_hospital(root / "hospital")
    out = root / "out"
    made = _run("init", "--source", "tables", "--path", hospital, "--out", out)
    assert made.returncode == 0, made.stderr
    for section, values in SETTINGS.items():
        for setting, value in values.items():
            _set(out / "m3h.toml", section, setting, str(value))

    refused = _run("run", "--out", out)
    convert = re.search(r"`(iconv -f \S+ -t UTF-8 \S+ > [^`\s]+)`", refused.stderr)
    assert convert, refused.stderr
    subprocess.run(convert[1], shell=True, check=True, cwd=root)
    converted = Path(shlex.split(convert[1])[-1])
    converted.replace(hospital / "notes.csv")

    stopped = _run("run", "--out", out)
    accept = re.search(r'add ("events units \w+") to accepted', stopped.stderr)
    assert accept, stopped.stderr
    _set(out / "m3h.toml", "validation", "accepted", f"[{accept[1]}]")

    return Journey(hospital, out, refused, stopped, _run("run", "--out", out))


def test_wrong_encoding_is_refused_by_the_name_of_its_file(journey):
    assert journey.refused.returncode == 1
    assert "notes.csv" in journey.refused.stderr
    assert "Traceback" not in journey.refused.stderr


def test_two_units_in_one_code_stop_the_run(journey):
    assert journey.stopped.returncode == 1
    assert "GLUC" in journey.stopped.stderr
    assert "factor of 18" in journey.stopped.stderr
    assert "Traceback" not in journey.stopped.stderr


def test_what_was_accepted_runs_to_a_report_in_which_effects_survive(journey):
    assert journey.finished.returncode == 0, journey.finished.stderr[-3000:]
    latest = journey.out / "latest"
    assert (latest / "report.html").exists()
    tim = json.loads((latest / "tim.json").read_text())
    helped = tim["tasks"].index("kidney_score_by_board")
    helper = tim["tasks"].index("kidney_score")
    assert tim["evidence"][helped][helper]
    assert tim["matrix"][helped][helper] > 0.1
    assert len(json.loads((latest / "metrics.json").read_text())["tasks"]) == 6


def test_page_holds_what_the_files_say(journey):
    latest = journey.out / "latest"
    files = {name: json.loads((latest / f"{name}.json").read_text()) for name in PAGE_FILES}
    (gate,) = journey.out.glob("snapshots/*/gate/gate.json")
    check_numbers(
        (latest / "report.html").read_text(), files | {"gate": json.loads(gate.read_text())}
    )


def test_other_faults_are_told_and_cost_no_row(journey):
    page = (journey.out / "latest" / "validation.html").read_text()
    assert str(MISSING_VALUE) in page.replace("\N{MINUS SIGN}", "-")
    assert "ward: 1 of its 2 categories is spelt in more than one way" in page
    samples = pl.read_parquet(journey.out / "latest" / "predictions.parquet")[
        "sample_id"
    ].n_unique()
    assert samples == 1000


def test_wrong_rows_are_in_quarantine_with_their_reasons(journey):
    folder = journey.out / "latest" / "quarantine"
    events = pl.read_parquet(folder / "events.parquet")
    rules = dict(events.group_by("rule").len().iter_rows())
    assert rules["duplicate_key"] == 200
    # Taken or filed in the hour that the clocks skipped: those that were planted, and some of that
    # night's stays.
    written = pl.read_csv(journey.hospital / "events.csv.gz", infer_schema=False)
    never_was = pl.any_horizontal(
        pl.col("time", "available_time").str.starts_with("2024-03-31 02:")
    )
    assert rules["unreadable_field"] == written.filter(never_was).height
    with (folder / "events.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == events.height
