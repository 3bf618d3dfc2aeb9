"""The report page read back: its tables as text, and whether they hold what the files say."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from m3h_pipeline.evaluation import claims
from m3h_pipeline.wording import NO_VALUE, format_interval, format_name, format_number


class Cells(HTMLParser):
    """The text of every table cell, by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data}".strip()


def rows(page: str) -> list[list[str]]:
    """All rows of all tables."""
    parser = Cells()
    parser.feed(page)
    return parser.rows


def row(page: str, start: str) -> list[str]:
    """The first row whose first cell begins so."""
    return next(cells for cells in rows(page) if cells and cells[0].startswith(start))


def table(page: str, label: str) -> list[list[str]]:
    """The rows of the table in the region of that label."""
    return rows(page.partition(f'aria-label="{label}"')[2].partition("</table>")[0])


def check_numbers(page: str, files: Mapping[str, Any]) -> None:
    """Fail where the page's sentences and tables don't hold what the files say.

    ``files``: the contents of metrics.json, trust.json, gate.json, detail.json and tim.json, by
    name.
    """
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    tasks = files["metrics"]["tasks"]
    for sentence in claims.write_sentences(files["detail"]["comparisons"], tasks):
        assert sentence in text
    _check_scores(page, tasks)
    _check_calibration(page, text, files["trust"], files["gate"])
    if files["tim"] and files["tim"]["groups"]:
        _check_groups(page, files["tim"]["groups"])
    for subset in (files["detail"]["modalities"] or {"subsets": []})["subsets"]:
        name = " + ".join(format_name(modality) for modality in subset["modalities"])
        ends = format_interval(subset["low"], subset["high"])
        shown = next(
            cells for cells in table(page, "Subsets of the modalities") if cells[0] == name
        )
        assert shown[1].split() == f"{format_number(subset['value'])} {ends}".split()
    assert " (0.000 to 0.000)" not in text
    assert "0.000 to 0.000" not in text


def _check_scores(page: str, tasks: list[dict[str, Any]]) -> None:
    shown = {cells[0]: cells for cells in table(page, "Scores of every task") if len(cells) > 8}
    for task in tasks:
        start = format_name(task["task"])
        # The department follows, where there is one; another task's longer name may begin the same.
        name = min((cell for cell in shown if f"{cell} ".startswith(f"{start} ")), key=len)
        cells = shown[name]
        if not task["claimed"]:
            assert cells[1:7] == [NO_VALUE] * 6
            continue
        expected = [
            f"{format_number(task['value'])} {format_interval(task['low'], task['high'])}",
            format_number(task["single_task"]),
            format_number(task["joint"]),
            format_number(task["trees"]),
        ]
        for against, field in claims.FIELDS.items():
            verdict = claims.get_verdict(task, against)
            value = format_number(task[field], sign=True)
            ends = format_interval(task[f"{field}_low"], task[f"{field}_high"], sign=True)
            expected.append(f"{value} {verdict if verdict in ('better', 'worse') else ''} {ends}")
        assert [cell.split() for cell in cells[1:7]] == [cell.split() for cell in expected], name


def _check_calibration(page: str, text: str, trust: dict[str, Any], gate: dict[str, Any]) -> None:
    shown = {cells[0]: cells for cells in table(page, "Calibration and coverage")}
    for record in trust["tasks"]:
        cells = shown[format_name(record["task"])]
        assert cells[2:4] == [
            format_number(record["error"]),
            format_number(record["calibrated"]),
        ]
        assert cells[4].split()[0] == format_number(record["coverage"])
        if record["thirds"]:
            shares = [(third or {}).get("coverage") for third in record["thirds"]]
            assert cells[4].endswith(f"by third {', '.join(map(format_number, shares))}")
    if not trust["tasks"]:
        return
    reason = next(check["reason"] for check in gate["checks"] if check["name"] == "calibrated")
    assert f"{reason}." in text
    # The gate and the table judge the same predictions by the same measure.
    by_task = {record["task"]: record for record in trust["tasks"]}
    for judged in gate.get("calibration", []):
        if judged["estimate"] is None or judged["task"] not in by_task:
            continue
        field = "coverage" if judged["kind"] == "coverage" else "calibrated"
        assert judged["estimate"] == by_task[judged["task"]][field]


def _check_groups(page: str, groups: dict[str, Any]) -> None:
    section = page.partition("Which tasks to train together")[2].partition("</table>")[0]
    shown = {cells[0].split(" (")[0]: cells[1:] for cells in rows(section)}
    options = {str(option["models"]): option for option in groups["tried"]} | {
        "one a task": groups["single"]
    }
    for name, option in options.items():
        assert shown[name] == [
            format_number(option["valid"]),
            format_number(option["test"]),
        ]
    best = max(options, key=lambda name: options[name]["valid"])
    assert f"{best} (best)" in section
    assert ("is advised:" in section) == groups["advised"]
