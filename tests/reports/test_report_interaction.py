"""Task interaction on the report page: its pictures, and what is said of them."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_cells import table
from report_example import example

from m3h_pipeline import wording
from m3h_pipeline.reports import (
    charts,
    grouping,
    interaction_charts,
    interaction_order,
    interaction_words,
)
from m3h_pipeline.reports.page import write_report

pytestmark = pytest.mark.slow(20)


def written(data: dict[str, Any], folder: Path) -> str:
    write_report(data, folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(example(), tmp_path_factory.mktemp("report"))


def section_of(page: str) -> str:
    return page.partition('id="interaction"')[2].partition("</section>")[0]


def survivors(tim: dict[str, Any]) -> int:
    return sum(map(sum, tim["evidence"]))


def test_heat_map_fills_only_what_survives(page: str) -> None:
    tasks = example()["metrics"]["tasks"]
    tim = interaction_order.arrange_tasks(
        example()["tim"], {task["task"]: task["department"] for task in tasks}
    )
    surviving = [(i, j) for i in range(8) for j in range(8) if tim["evidence"][i][j]]
    assert len(surviving) == 8
    plots = re.findall(r'data-columns="8">(<svg.*?</svg>)', page)
    assert len(plots) == 2  # one for a wide screen, one for a phone
    for plot in plots:
        cells = re.findall(r'<path[^>]*fill="var\(--([\w-]+)\)"[^>]*><title>([^<]*)', plot)
        assert len(cells) == 64
        assert sum(fill.startswith(("help", "harm")) for fill, _ in cells) == len(surviving)
        for i, j in surviving:
            fill, words = cells[i * 8 + j]
            assert fill.startswith("help" if tim["gain"][i][j] > 0 else "harm")
            assert words == interaction_charts.describe_cell(tim, i, j, {tim["tasks"][i]: "AUROC"})
    assert "this project's reconstruction" in page


def test_graph_has_an_arrow_for_each_effect_that_survives(page: str) -> None:
    [drawn] = re.findall(r'from arrow to arrow.">(<svg.*?</svg>)', page)
    assert drawn.count("<title>") == survivors(example()["tim"])
    drawing = example(tim_tasks=44)["tim"]
    assert survivors(drawing) > 40
    assert charts.to_svg(interaction_charts.draw_graph(drawing), "graph").count("<title>") == 40
    drawing["evidence"] = [[False] * 44] * 44
    assert interaction_charts.draw_graph(drawing) is None


def test_what_all_tasks_do_for_each_comes_first(page: str) -> None:
    joint = example()["tim"]["joint_learning"]
    del joint["mean"]
    named = dict(zip(example()["tim"]["tasks"], zip(*joint.values(), strict=True), strict=True))
    fields = list(joint)
    shown = {cells[0]: cells for cells in table(page, "What learning all tasks together does")[1:]}
    verdicts = []
    for task, numbers in named.items():
        of_task = dict(zip(fields, numbers, strict=True))
        verdict = "no difference shown"
        if of_task["evidence"]:
            verdict = "gains" if of_task["gain"] > 0 else "loses"
        verdicts.append(verdict)
        cells = shown[wording.format_name(task)]
        assert cells[1] == verdict
        assert cells[2].split()[0] == wording.format_number(of_task["change"], sign=True)
    assert verdicts.count("gains") == 2
    assert verdicts.count("loses") == 1
    section = section_of(page)
    sentence = "In the network of all 8 tasks, against a network of each task alone, 2 tasks gain ("
    assert sentence in html.unescape(section)
    assert "and for the other 5 no difference is shown" in section
    assert "skill changes by +0.014 (+0.006 to +0.021)." in section
    assert section.index("In the network of all 8") < section.index("Which task helps which")


def test_what_each_task_reads_is_a_folded_table(page: str) -> None:
    attention = example()["tim"]["attention"]
    names = [wording.format_name(task) for task in attention["tasks"]]
    label = "What each task reads from the others"
    shown = {cells[0]: cells[1:] for cells in table(page, label)[1:]}
    assert sorted(shown) == sorted(names)
    owns = []
    for i, weights in enumerate(attention["weights"]):
        if weights[i] is None:
            assert shown[names[i]] == [wording.NO_VALUE, "too few labels"]
            continue
        others = sorted((j for j in range(len(names)) if j != i), key=lambda j: -weights[j])
        shares = [f"{names[j]} {100 * weights[j]:.1f}%" for j in others[:3]]
        own, sources = shown[names[i]]
        assert own == f"{100 * weights[i]:.1f}%"
        assert sources == ", ".join(shares)
        owns.append(weights[i])
    assert 0 < len(owns) < len(names)
    in_order = [float(own.rstrip("%")) for own, _ in shown.values() if own != wording.NO_VALUE]
    assert in_order == sorted(in_order)
    last = [own for own, _ in shown.values()][len(owns) :]
    assert last == [wording.NO_VALUE] * (len(names) - len(owns))
    before = section_of(page).partition(f'aria-label="{label}"')[0]
    folded = before.rpartition("<details")[2]
    assert "not what a task gains from another" in folded


def test_without_attention_there_is_no_such_table(tmp_path: Path) -> None:
    data = example()
    data["tim"]["attention"] = None
    assert "(attention)" not in section_of(written(data, tmp_path))


def test_each_task_says_what_helps_it_and_what_is_only_a_guess(page: str) -> None:
    tim = example()["tim"]
    names = [wording.format_name(task) for task in tim["tasks"]]
    shown = {cells[0]: cells for cells in table(page, "What helps each task")[1:]}
    assert set(shown) == set(names)
    sizes = np.abs(tim["gain"]) * np.array(tim["evidence"])
    assert next(iter(shown)) == names[int(np.argmax(sizes.max(axis=1)))]
    for i, j in np.ndindex(8, 8):
        effects, guesses = shown[names[i]][1:]
        if i != j:
            is_told = f"{names[j]} raises" in effects or f"{names[j]} lowers" in effects
            is_told |= f"{names[j]} brings" in effects
            assert is_told == tim["evidence"][i][j]
        if tim["evidence"][i][j] or tim["stopped"][i][j]:
            assert f"{names[j]}: AUROC" not in guesses
    assert any("AUROC +0." in cells[2] for cells in shown.values())


@pytest.mark.parametrize(
    ("tasks", "surviving"), [(8, 0), (8, 1), (44, 60)], ids=["none", "one", "sixty"]
)
def test_it_says_how_many_effects_survive(tmp_path: Path, tasks: int, surviving: int) -> None:
    data = example(tim_tasks=tasks, surviving=surviving)
    section = section_of(written(data, tmp_path))
    shown = section.partition("Which task helps which")[2]
    before_fold = shown.partition("<details")[0]
    sentences = re.findall(r"<li>(Learning .*?)</li>", before_fold)
    assert len(sentences) == min(surviving, 6)
    if surviving:
        verb = "1 effect" if surviving == 1 else "60 effects"
        assert f"<strong>{verb} of " in before_fold
        assert "from arrow to arrow" in before_fold
        assert "1,000 pairs of patients ranked rightly" in before_fold
    else:
        assert re.search(
            r"None of 56 tested effects survives a false discovery rate of 5%; by their 95% "
            r"intervals half of them could still be as large as 0\.\d+ in AUROC, the least "
            r"certain 0\.\d+\.</p>\s*$",
            before_fold,
        )
        assert "arrow to arrow" not in section
        assert "What survives" not in section  # a column of dashes
    assert ("the other 54 stand below" in before_fold) == (surviving == 60)
    assert "data-columns" not in before_fold
    assert section.count("data-columns") == (2 if tasks == 8 else 1)
    assert section.count('<option value="helped-') == tasks
    assert section.count('<tr id="helped-') == tasks


EFFECT = {
    "task": "sepsis",
    "other": "copd",
    "metric": "AUROC",
    "value": 0.0124,
    "low": 0.004,
    "high": 0.02,
    "gain": 0.01,
    "evidence": True,
    "is_in_metric": True,
}


def test_an_effect_is_told_in_its_metric_and_in_patients() -> None:
    assert interaction_words.describe_effect(EFFECT) == (
        "Learning COPD too raises AUROC of Sepsis by 0.012 (0.004 to 0.020): about 12 more of "
        "1,000 pairs of patients ranked rightly."
    )
    harm = {"value": -0.0124, "low": -0.02, "high": -0.004, "gain": -0.01}
    assert interaction_words.describe_effect(EFFECT | harm, names_task=False) == (
        "COPD lowers AUROC by 0.012 (0.004 to 0.020): about 12 fewer of 1,000 pairs of patients "
        "ranked rightly."
    )
    assert interaction_words.describe_effect(EFFECT | {"metric": "R2"}).endswith(
        "raises R² of Sepsis by 0.012 (0.004 to 0.020): 1.2 percentage points more of the "
        "variance explained."
    )
    assert interaction_words.describe_effect(EFFECT | {"metric": "silhouette"}).endswith(
        "raises silhouette of Sepsis by 0.012 (0.004 to 0.020)."
    )


def test_an_effect_that_only_its_skill_shows_claims_nothing_of_the_metric() -> None:
    sentence = interaction_words.describe_effect(EFFECT | {"low": -0.003, "is_in_metric": False})
    assert sentence == (
        "Learning COPD too brings the probabilities of Sepsis closer to what happened (skill "
        "+0.010), but that AUROC changes the same way is not shown: +0.012 (−0.003 to +0.020)."
    )
    # An interval on the other side of 0 does not show it either.
    assert not interaction_words.is_shown_in_metric(-0.02, -0.004, 0.01)
    assert interaction_words.is_shown_in_metric(-0.02, -0.004, -0.01)
    assert not interaction_words.explain_pairs([EFFECT | {"is_in_metric": False}])


def test_what_the_joint_model_loses_without_a_task(page: str, tmp_path: Path) -> None:
    left = example()["tim"]["leave_one_out"]
    section = section_of(page).partition("What the joint model loses without a task")[2]
    task, other = (
        wording.format_name(name) for name in (example()["tim"]["tasks"][2], left["tasks"][1])
    )
    change = wording.format_number(-left["matrix"][2][1], sign=True)
    assert f"Without <strong>{other}</strong>: {task}, AUROC {change} (" in section
    assert section.count("Without <strong>") == 1
    assert "agree in sign in 54% (50% would be chance), with a rank correlation of +0.120." in (
        section
    )
    data = example()
    data["tim"]["leave_one_out"]["evidence"] = [[False] * 2] * 8
    assert "no change of another task survives" in written(data, tmp_path)


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
        "one model a task did best on the validation split: mean skill 0.646 (a constant's is 0), "
        "then 2 models with 0.641." in sentences
    )
    assert sentences.endswith("Training in groups is not advised.")
    lost = " ".join(
        grouping.describe_grouping(
            GROUPS | {"best": "groups", "single": {"valid": 0.6, "test": 0.6}}
        )
    )
    assert (
        "2 models did best on the validation split: mean skill 0.641 (a constant's is 0), then one "
        "model of all tasks with 0.630" in lost
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
    for name in ("matrix", "low", "high", "gain", "evidence"):
        assert new["leave_one_out"][name][i] == tim["leave_one_out"][name][0]
    for name in ("single", "n"):
        assert new[name][i] == tim[name][0]
    joint = tim["joint_learning"]
    assert new["joint_learning"]["mean"] == joint.pop("mean")
    for name, values in joint.items():
        assert new["joint_learning"][name][i] == values[0]
    for name in ("gain", "stopped"):
        assert new[name][i][helper] == tim[name][0][2]


def test_a_single_model_tests_nothing(tmp_path: Path) -> None:
    data = example(surviving=0)
    data["tim"] |= {"q": [[None] * 8] * 8, "groups": None, "leave_one_out": None, "seeds": 1}
    data["tim"]["joint_learning"] |= {"q": [None] * 8, "evidence": [False] * 8}
    page = html.unescape(section_of(written(data, tmp_path)))
    assert "A single model of each pair tells nothing of training's own luck" in page
    assert "it could not be tested what the network of all tasks does for each" in page
    assert "no difference is shown" not in page
    assert "no difference shown" not in page
    assert "survives a false discovery rate" not in page


def test_of_a_task_with_too_few_labels_nothing_is_said(tmp_path: Path) -> None:
    data = example(tim_tasks=44, surviving=60)
    hidden = [task["task"] for task in data["metrics"]["tasks"] if not task["claimed"]]
    page = written(data, tmp_path)
    shown = {cells[0]: cells for cells in table(page, "What learning all tasks together does")[1:]}
    assert hidden
    for task in hidden:
        cells = shown[wording.format_name(task)]
        assert cells[1] == "too few labels"
        assert set(cells[4:]) == {wording.NO_VALUE}
        assert cells[2].split() == [wording.NO_VALUE]


def test_cell_words_hold_all_that_is_known() -> None:
    tim = {
        "tasks": ["sepsis", "copd"],
        "method": "pairwise",
        "single": [0.78, 0.7],
        "matrix": [[0, 0.012], [None, 0]],
        "low": [[0, 0.003], [None, 0]],
        "high": [[0, 0.021], [None, 0]],
        "gain": [[0, 0.018], [None, 0]],
        "stopped": [[False, False], [False, False]],
    }
    assert interaction_charts.describe_cell(tim, 0, 1, {"sepsis": "AUROC"}) == (
        "COPD → Sepsis: AUROC +0.012 (+0.003 to +0.021), skill +0.018. Sepsis alone 0.780, with "
        "COPD 0.792."
    )
    assert interaction_charts.describe_cell(tim, 1, 0, {}) == "Sepsis → COPD: not measured."
    # What was stopped was measured on other patients than the score alone: they don't add up.
    tim["stopped"] = [[False, True], [True, False]]
    stopped = interaction_charts.describe_cell(tim, 0, 1, {"sepsis": "AUROC"})
    assert stopped.endswith("Sepsis alone 0.780. Stopped early.")


def test_pictures_for_metadata() -> None:
    image = interaction_charts.draw_heat_map(example()["tim"])
    assert charts.to_png(image).startswith(b"\x89PNG")
    assert charts.to_markdown(image, "TIM").startswith("![TIM](data:image/png;base64,iVBOR")
