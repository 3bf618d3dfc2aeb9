"""Task interaction on the report page: its pictures, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_cells import rows
from report_example import example

from m3h_pipeline import wording
from m3h_pipeline.reports import charts, grouping, interaction_charts, interaction_order
from m3h_pipeline.reports.page import write_report

pytestmark = pytest.mark.slow(20)


def written(data: dict[str, Any], folder: Path) -> str:
    write_report(data, folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(example(), tmp_path_factory.mktemp("report"))


def test_heat_map_fills_only_what_survives(page: str) -> None:
    tasks = example()["metrics"]["tasks"]
    tim = interaction_order.arrange_tasks(
        example()["tim"], {task["task"]: task["department"] for task in tasks}
    )
    survivors = [(i, j) for i in range(8) for j in range(8) if tim["evidence"][i][j]]
    assert survivors
    assert len(survivors) < sum(
        tim["low"][i][j] > 0 or tim["high"][i][j] < 0 for i in range(8) for j in range(8)
    )
    plots = re.findall(r'data-columns="8">(<svg.*?</svg>)', page)
    assert len(plots) == 2  # one for a wide screen, one for a phone
    for plot in plots:
        cells = re.findall(r'<path[^>]*fill="var\(--([\w-]+)\)"[^>]*><title>([^<]*)', plot)
        assert len(cells) == 64
        assert sum(fill.startswith(("help", "harm")) for fill, _ in cells) == len(survivors)
        i, j = survivors[0]
        assert cells[i * 8 + j][1] == interaction_charts.describe_cell(
            tim, i, j, {tim["tasks"][i]: "AUROC"}
        )
    assert f"<strong>{len(survivors)} survive</strong> a false discovery rate of 5%" in page
    assert "this project's reconstruction" in page


def test_graph_has_an_arrow_for_each_effect_that_survives(page: str) -> None:
    evidence = example()["tim"]["evidence"]
    [drawn] = re.findall(r'from arrow to arrow.">(<svg.*?</svg>)', page)
    assert drawn.count("<title>") == sum(map(sum, evidence))
    drawing = example(tim_tasks=44)["tim"]
    assert sum(map(sum, drawing["evidence"])) > 40
    assert charts.to_svg(interaction_charts.draw_graph(drawing), "graph").count("<title>") == 40
    drawing["evidence"] = [[False] * 44] * 44
    assert interaction_charts.draw_graph(drawing) is None


def test_each_task_says_what_helps_it_and_of_how_many(page: str) -> None:
    tim = example()["tim"]
    surviving = np.abs(tim["matrix"]) * np.array(tim["evidence"])
    first = int(np.argmax(surviving.max(axis=1)))
    section = page.partition("What helps each task")[2]
    cells = rows(section)
    top = next(row for row in cells if row and row[0] not in ("Task", ""))
    assert top[0] == wording.format_name(tim["tasks"][first])
    assert top[4:] == [
        str(tim["n"][first]),
        f"{tim['single'][first]:.3f}",
        f"{tim['joint'][first]:.3f}",
    ]
    assert re.match(r"(Helped|Hurt) by [A-Z].* [+−]0\.\d+ \(.* to .*\)", top[1])
    assert "The other cells are estimated; where both are known" in page
    assert (
        "Of one model of all tasks, 2 models and one model a task, 2 models did best on the "
        "validation split" in page
    )
    assert "agree in sign in 54% (50% would be chance), with a rank correlation of +0.120." in page


GROUPS = {
    "tasks": [["a", "b"], ["c"]],
    "models": 2,
    "tried": [
        {"models": 1, "valid": 0.630, "test": 0.645},
        {"models": 2, "valid": 0.641, "test": 0.631},
    ],
    "single": {"valid": 0.646, "test": 0.650},
    "gain": {"value": -0.019, "low": -0.03, "high": -0.01},
    "gain_over_joint": {"value": -0.014, "low": -0.02, "high": 0.002},
    "best": "single",
    "advised": False,
}


def test_groups_are_compared_with_all_other_ways_to_train(page: str) -> None:
    sentences = " ".join(grouping.describe_grouping(GROUPS))
    assert (
        "one model a task did best on the validation split: mean score 0.646, then 2 models with "
        "0.641." in sentences
    )
    assert sentences.endswith("Training in groups is not advised.")
    lost = " ".join(
        grouping.describe_grouping(
            GROUPS | {"best": "groups", "single": {"valid": 0.6, "test": 0.6}}
        )
    )
    assert (
        "2 models did best on the validation split: mean score 0.641, then one model of all tasks "
        "with 0.630" in lost
    )
    assert (
        "not advised: on those patients it loses 0.019 against one model a task and 0.014 against "
        "one model" in lost
    )
    shown = grouping.describe_grouping(GROUPS | {"best": "groups", "advised": True})
    assert shown[-1] == "Both agree, so training in these groups is advised:"
    assert "<ol" not in page.partition("Which tasks to train together")[2].partition("<h3>")[0]


def test_tasks_lie_by_department_and_likes_are_neighbours() -> None:
    tim = example(tim_tasks=8)["tim"]
    matrix = np.zeros((8, 8))
    matrix[[0, 3], 2] = 0.02  # both are helped by the same task
    tim["matrix"] = matrix.tolist()
    departments = dict.fromkeys(tim["tasks"], "a") | {tim["tasks"][1]: "b", tim["tasks"][6]: "b"}
    new = interaction_order.arrange_tasks(tim, departments)
    assert sorted(new["tasks"]) == sorted(tim["tasks"])
    runs = [
        d for at, d in enumerate(new["departments"]) if at == 0 or d != new["departments"][at - 1]
    ]
    assert sorted(runs) == ["a", "b"]
    places = [new["tasks"].index(tim["tasks"][i]) for i in (0, 3)]
    assert abs(places[0] - places[1]) == 1
    i = places[0]
    helper = new["tasks"].index(tim["tasks"][2])
    assert new["matrix"][i][helper] == 0.02
    assert new["leave_one_out"]["matrix"][i] == tim["leave_one_out"]["matrix"][0]
    for name in ("single", "joint", "n"):
        assert new[name][i] == tim[name][0]


def test_where_nothing_survives_it_says_so_and_has_no_column_of_dashes(tmp_path: Path) -> None:
    data = example()
    data["tim"] |= {"evidence": [[False] * 8] * 8}
    page = written(data, tmp_path)
    assert "<strong>none survives</strong> a false discovery rate" in page
    assert "No effect survives, so there is no graph of them." in page
    section = page.partition("What helps each task")[2]
    assert rows(section)[0][1:3] == ["Best guesses, not evidence", "Metric"]


def test_hints_and_single_seeds_claim_nothing(tmp_path: Path) -> None:
    data = example()
    nothing = {
        "q": [[None] * 8] * 8,
        "evidence": [[False] * 8] * 8,
        "groups": None,
        "leave_one_out": None,
    }
    data["tim"] |= nothing | {"seeds": 1, "estimator": None}
    assert "A single seed tells nothing of training's own doubt" in written(data, tmp_path)
    data["tim"] |= {
        "method": "attention",
        "unit": "attention weight",
        "source": [["estimated"] * 8] * 8,
    }
    page = written(data, tmp_path)
    assert "nothing here is evidence" in page
    assert "attention weight +" in page
    assert "was trained anew" not in page


def test_cell_words_hold_all_that_is_known() -> None:
    tim = {
        "tasks": ["sepsis", "copd"],
        "method": "pairwise",
        "unit": "metric",
        "single": [0.78, 0.7],
        "joint": [0.795, 0.71],
        "matrix": [[0, 0.012], [None, 0]],
        "low": [[0, 0.003], [None, 0]],
        "high": [[0, 0.021], [None, 0]],
        "source": [["retrained", "estimated"]] * 2,
    }
    assert interaction_charts.describe_cell(tim, 0, 1, {"sepsis": "AUROC"}) == (
        "COPD → Sepsis: AUROC +0.012 (+0.003 to +0.021). Sepsis alone 0.780, with COPD 0.792, "
        "with all 2 tasks 0.795. Estimated, not retrained."
    )
    assert interaction_charts.describe_cell(tim, 1, 0, {}) == "Sepsis → COPD: not measured."


def test_pictures_for_metadata() -> None:
    image = interaction_charts.draw_heat_map(example()["tim"])
    assert charts.to_png(image).startswith(b"\x89PNG")
    assert charts.to_markdown(image, "TIM").startswith("![TIM](data:image/png;base64,iVBOR")
