"""Page and card say once how their figures were made: cross-fitted, or on the test split."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_cells import row, table
from report_example import example

from m3h_core import Cohort, with_folds
from m3h_pipeline.evaluation.method import describe_evaluation_limits
from m3h_pipeline.reports.card import format_model_card
from m3h_pipeline.reports.page import write_report
from m3h_pipeline.reports.publish import count_cohort

CROSS_FITTED = (
    "Cross-fitted in 3 folds: each patient is judged by a model that did not see them. The model "
    "that is registered is the mean of the 3, so these figures judge the recipe, not its exact "
    "weights."
)
ON_TEST = "On the test split of 207 samples, whose patients the model did not see."


def written(data: dict[str, Any], folder: Path) -> str:
    write_report(data, folder / "report.html")
    return (folder / "report.html").read_text()


def read_text(page: str) -> str:
    """What stands in the page's body, as text."""
    body = page.partition("<main")[2].partition("<script>")[0]
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def judged_on_test_split() -> dict[str, Any]:
    data = example()
    data["cohort"] |= {"judged": 207, "folds": {}}
    data["limits"] = describe_evaluation_limits(0, 207)
    data["tim"]["folds"] = 1
    return data


def test_a_cross_fitted_night_names_no_test_split_but_in_the_table_of_splits(
    tmp_path: Path,
) -> None:
    page = written(example(), tmp_path)
    text = read_text(page)
    assert text.count(CROSS_FITTED) == 1
    assert text.index(CROSS_FITTED) < text.index("Scores, with 95% intervals")
    assert not re.search(r"test (split|sample|label|patient|score)", text)
    assert table(page, "Folds")[1:] == [["1", "478"], ["2", "451"], ["3", "462"]]
    assert row(page, "Test") == ["Test", "207"]
    for limit in describe_evaluation_limits(3, 1391):
        assert text.count(limit) == 1
    assert "fitted on the other folds' patients; what is registered is calibrated on all" in text
    card = format_model_card(example())
    assert f"## Evaluation\n\n{CROSS_FITTED}\n" in card
    assert "Of each there are 3, each trained without the patients of one fold" in card
    assert "test split" not in card


def test_a_night_with_a_test_split_names_no_fold(tmp_path: Path) -> None:
    text = read_text(written(judged_on_test_split(), tmp_path))
    assert text.count(ON_TEST) == 1
    assert not re.search(r"\bfolds?\b", text)
    card = format_model_card(judged_on_test_split())
    assert f"## Evaluation\n\n{ON_TEST}\n" in card
    assert not re.search(r"\bfolds?\b", card)


@pytest.mark.parametrize("n_folds", [0, 3])
def test_each_sample_is_counted_in_one_split_and_one_fold(n_folds: int) -> None:
    n = 400
    cohort = Cohort(
        [str(i) for i in range(n)],
        np.arange(n) % 4,
        {"tabular": np.zeros((n, 1))},
        {"tabular": np.arange(n) < 100},
        {},
        {},
        subject_ids=[str(i // 2) for i in range(n)],
    )
    counts = count_cohort(with_folds(cohort, n_folds))
    assert counts["splits"] == dict.fromkeys(("train", "valid", "calibration", "test"), 100)
    assert counts["judged"] == (n if n_folds else 100)
    assert len(counts["folds"]) == n_folds
    assert sum(counts["folds"].values()) == (n if n_folds else 0)
    assert (counts["subjects"], counts["modalities"]) == (200, {"tabular": 100})
