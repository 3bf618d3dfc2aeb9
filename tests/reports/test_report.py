"""The report page: what it says, what it hides, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from evaluation_example import build_phenotypes
from page_cells import check_numbers, row, rows, table
from report_example import example

from m3h_pipeline.evaluation import claims
from m3h_pipeline.reports import charts
from m3h_pipeline.reports.card import format_model_card
from m3h_pipeline.reports.page import write_report

pytestmark = pytest.mark.slow(40)


def written(data: dict[str, Any], folder: Path) -> str:
    write_report(data, folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(example(), tmp_path_factory.mktemp("report"))


def test_models_trained_anew_stand_beside_the_one_model(page: str) -> None:
    table = page.split('id="modalities"')[1].split("</table>")[0]
    assert "Trained anew" in table
    assert table.count("0.650 to 0.750") == 14


def test_each_modality_says_what_it_costs(page: str) -> None:
    section = page.split('aria-label="What is lost without a modality"')[1].split("</table>")[0]
    rows = {row.split("<")[0]: row for row in section.split('<th scope="row">')[1:]}
    assert "<small>minilm</small>" in rows["Language"]
    assert '1,476</td><td class="num">1.2</td></tr>' in rows["Time series"]
    assert rows.keys() == {"Tabular", "Time series", "Language", "Vision"}


def test_phenotypes_are_shown_where_they_are_found(page: str) -> None:
    section = page.split('id="phenotypes"')[1].split("</section>")[0]
    assert "Phenotypes found" in section
    assert "What sets it apart" in section
    assert "too few patients to describe" in section
    assert "95th percentile 0.051" in section


def test_no_phenotypes_found_is_said_instead_of_clusters(tmp_path: Path) -> None:
    facts = example()
    reason = "k-means on the principal components finds tighter clusters"
    facts["detail"]["phenotypes"] = [build_phenotypes((reason,))]
    section = written(facts, tmp_path).split('id="phenotypes"')[1].split("</section>")[0]
    assert f"No phenotypes found: {reason}." in section
    assert "0.047<small>95th percentile 0.051" in section
    assert "What sets it apart" not in section
    card = format_model_card(facts)
    assert f"No phenotypes found: {reason}. Silhouette 0.120; of k-means 0.125" in card


def test_clusters_that_an_earlier_version_did_not_judge_are_not_shown(tmp_path: Path) -> None:
    facts = example()
    old = {name: facts["detail"]["phenotypes"][0][name] for name in ("task", "clusters")}
    facts["detail"]["phenotypes"] = [old]
    section = written(facts, tmp_path).split('id="phenotypes"')[1].split("</section>")[0]
    assert "Not judged" in section
    assert "What sets it apart" not in section
    assert "Not judged" in format_model_card(facts)


def test_a_champion_that_could_not_be_applied_is_told(tmp_path: Path) -> None:
    facts = example()
    facts["drift"] |= {"champion": None, "problem": "version 3 can't be loaded"}
    assert "version 3 can't be loaded" in written(facts, tmp_path).replace("&#39;", "'")


def test_needs_nothing_but_itself(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="([^"#]+)', page)) == {"data:,", "http://127.0.0.1:5000/"}
    assert "@import" not in page
    assert "url(" not in page
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_same_data_same_bytes_in_file_or_folder(page: str, tmp_path: Path) -> None:
    write_report(example(), tmp_path)
    assert (tmp_path / "report.html").read_text() == page


def test_summary_counts_what_the_intervals_say(page: str) -> None:
    tasks = [t for t in example()["metrics"]["tasks"] if t["claimed"]]
    better = sum(t["difference_low"] > 0 for t in tasks)
    worse = sum(t["difference_high"] < 0 for t in tasks)
    assert f"Of 44 tasks, {len(tasks)} have enough labels for a claim." in page
    assert (
        "against the same with single-task networks, the model was better on "
        f"{better}, worse on {worse}, and showed no clear difference on "
        f"{len(tasks) - better - worse}." in page
    )
    assert (
        "Model minus the same with single-task networks, on average: +0.017 (+0.007 to +0.027) "
        "over 35 tasks measured by AUROC" in page
    )
    assert "on Length of stay measured by R²" in page


def test_every_number_is_that_of_the_files(page: str) -> None:
    check_numbers(page, example())


def test_rows_that_are_no_samples_and_what_was_erased_since_are_explained(tmp_path: Path) -> None:
    data = example() | {"erased": {"samples": 12, "events": 3_400}}
    page = written(data, tmp_path)
    flow = page.partition("Rows by table")[2].partition("Why rows were left out")[0]
    assert row(flow, "Samples hosp/admissions.csv.gz")[1:] == ["1,500", "1,391", "104", "5"]
    assert (
        "Of the 2,600 kept rows of Samples, 1,391 of hosp/admissions.csv.gz are the cohort" in flow
    )
    assert "The other 1,209 (1,209 of hosp/patients.csv.gz) are no samples" in flow
    assert "since then rows of patients who are forgotten on request were erased" in page
    assert "(Samples 12, Events 3,400)" in page


def test_header_names_source_model_and_synthetic_data(page: str, tmp_path: Path) -> None:
    for text in (
        "SYNTHETIC DATA",
        "2026-11-01",
        "m3h, version 3",
        "1,391 samples of 1,204 patients",
    ):
        assert text in page
    real = written(example() | {"synthetic": False, "tim": None}, tmp_path)
    assert "SYNTHETIC DATA" not in real
    assert 'id="interaction"' not in real


def test_every_task_has_its_row(page: str) -> None:
    tasks = example()["metrics"]["tasks"]
    first = tasks[0]
    cells = row(page, "Heart failure")
    assert cells[1] == f"{first['value']:.3f} {first['low']:.3f} to {first['high']:.3f}"
    assert cells[7:] == ["AUROC", str(first["n"]), str(first["positives"])]
    departments = {t["department"] for t in tasks}
    assert page.count('scope="rowgroup"') == len(departments) == 17
    unclaimed = row(page, "Hypertension")
    assert "not claimed: fewer than 10 positives or negatives" in unclaimed[0]
    assert unclaimed[1:7] == ["–"] * 6
    scores = page.split("What each task reads from the others (attention)")[0]
    n_unclaimed = sum(not task["claimed"] for task in tasks)
    assert scores.split('id="modalities"')[0].count('class="unclaimed"') == n_unclaimed


def test_rows_of_a_table_sum_to_the_rows_read(page: str) -> None:
    assert row(page, "Events hosp/")[1:] == ["415,120", "391,404", "23,464", "252"]
    assert ["Events", "Quarantined", "value_in_range", "212"] in rows(page)


def test_small_groups_are_never_counted_out(tmp_path: Path) -> None:
    data = example()
    data["cohort"] |= {
        "splits": {"train": 1_184, "valid": 153, "calibration": 47, "test": 7},
        "folds": {"1": 846, "2": 538, "3": 7},
        "modalities": {"tabular": 1391, "timeseries": 1388, "language": 6, "vision": 0},
    }
    heart, rhythm, ischemia = data["metrics"]["tasks"][:3]
    heart |= {"n": 8, "positives": 3}
    rhythm |= {"n": 200, "positives": 196}
    ischemia |= {"n": None, "positives": None}
    page = written(data, tmp_path)
    assert row(page, "Heart failure")[8:] == ["<10", "<10"]
    assert row(page, "Atrial fibrillation")[8:] == ["200", ">190"]
    assert row(page, "Ischemic heart disease")[8:] == ["<10", "<10"]
    assert row(page, "Test") == ["Test", "<10"]
    assert row(page, "Calibration") == [
        "Calibration",
        "≥10",
    ]  # else the total gives the test split away
    assert table(page, "Folds")[1:] == [["1", "846"], ["2", "≥10"], ["3", "<10"]]
    assert row(page, "Time series") == ["Time series", ">1,381", ">99%"]
    assert row(page, "Language") == ["Language", "<10", "<1%"]
    assert row(page, "Vision") == ["Vision", "absent"]
    assert "1,388" not in page
    assert not re.search(r">\s*47\s*<", page)


def test_charts_follow_the_theme(page: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", page))
    assert "var(--ink)" in plots
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', plots))
    assert {c for c in colours if not c.startswith("var(")} <= {"none", "transparent"}
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_tables_are_named_and_headed(page: str) -> None:
    assert page.count("<table") == page.count("<caption>")
    assert not re.search(r"<th(?![^>]*scope=)[ >]", page)
    for landmark in (
        '<html lang="en">',
        "<header>",
        '<nav aria-label="Contents">',
        '<main id="main"',
        'href="#main"',
    ):
        assert landmark in page


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    data = example()
    bad = "</title><script>alert(1)</script>"
    data["metrics"]["tasks"][0]["task"] = data["tim"]["tasks"][0] = data["limits"][0] = bad
    data["model"]["run_url"] = "javascript:alert(1)"
    page = written(data, tmp_path)
    assert page.count("<script") == 1
    assert "javascript:" not in page


def test_nothing_claimed_nothing_compared(tmp_path: Path) -> None:
    data = example()
    for task in data["metrics"]["tasks"]:
        task |= dict.fromkeys(
            (
                "value",
                "low",
                "high",
                "joint",
                "single_task",
                "trees",
                "difference",
                "difference_low",
            )
        )
        task |= {"difference_high": float("nan"), "claimed": False, "reason": None}
        task |= dict.fromkeys(("trees_difference", "trees_difference_low", "trees_difference_high"))
    data["detail"]["comparisons"] = {
        against: claims.summarize_comparison(data["metrics"]["tasks"], against, [])
        for against in claims.FIELDS
    }
    tim = data["tim"]
    tim |= {"low": [[-1.0] * 8] * 8, "high": [[1.0] * 8] * 8, "evidence": [[False] * 8] * 8}
    tim["matrix"][0][1] = tim["single"][2] = None
    page = written(data | {"lineage": [], "checks": [], "limits": []}, tmp_path)
    assert "What joint learning adds could not be measured." in page
    assert "not claimed: too few labels to judge by" in page
    assert "None of 56 tested effects survives" in page
    assert 'id="limits"' not in page
    assert not re.search(
        r"\bnan\b", str(rows(page)).lower() + "".join(re.findall(r"<svg.*?</svg>", page)).lower()
    )


def test_says_which_part_is_missing(tmp_path: Path) -> None:
    data = example()
    del data["limits"], data["tim"]
    with pytest.raises(ValueError, match="lacks limits, tim"):
        write_report(data, tmp_path)


def test_an_interval_beyond_the_scale_ends_in_an_arrow() -> None:
    tasks = example()["metrics"]["tasks"]
    [plot] = charts.draw_intervals(tasks)
    drawn = charts.to_svg(plot, "differences")
    assert len(re.findall("<title>", drawn)) == sum(t["claimed"] for t in tasks)
    assert "Length of stay: R² +0.110 (−0.090 to +0.310)" in drawn
    assert charts.draw_intervals([t | {"claimed": False} for t in tasks]) == []


def test_all_tasks_interacting_stay_light(tmp_path: Path) -> None:
    """Of 44 tasks and 5,000 samples; how fast it opens is measured by benchmarks/report.py."""
    page = written(example(tim_tasks=44, full=True), tmp_path)
    assert len(page.encode()) < 8_000_000
    assert "All 1,892 pairs as a table" in page
    assert "The 40 largest of" in page


def luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_wcag_aa(theme: int) -> None:
    def contrast(a: str, b: str) -> float:
        high, low = sorted(
            (luminance(charts.PALETTE[name][theme]) for name in (a, b)), reverse=True
        )
        return (high + 0.05) / (low + 0.05)

    text = [(ink, ground) for ink in ("ink", "muted", "link") for ground in ("paper", "panel")]
    text += [("help-4", "paper"), ("harm-4", "paper"), ("warning-ink", "warning")]
    text += [
        ("paper" if k == 4 else "ink", f"{kind}-{k}")
        for kind in ("help", "harm")
        for k in (1, 2, 3, 4)
    ]
    assert {pair: round(contrast(*pair), 1) for pair in text if contrast(*pair) < 4.5} == {}
    assert contrast("none", "paper") >= 3
    light = [light for light, _ in charts.PALETTE.values()]
    assert len(light) == len(set(light))
