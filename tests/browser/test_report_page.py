"""The report as a reader meets it: mouse, keyboard, phone, dark, paper."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from report_example import example

from m3h_pipeline.reports import interaction_charts, interaction_order
from m3h_pipeline.reports.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HEAT_MAP = "figure:has(.legend) .chart:visible"
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the example's report, once for the same settings."""

    @functools.cache
    def write(**settings: Any) -> Path:
        path = tmp_path_factory.mktemp("report") / "report.html"
        write_report(example(**settings), path)
        return path

    return write


@pytest.fixture
def report(browser: Browser, pages: Callable[..., Path], request: pytest.FixtureRequest) -> Path:
    return pages(**getattr(request, "param", {}))


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Opens the report in a new context; afterwards: no script error, and nothing was fetched."""
    problems: list[str] = []
    fetched: set[str] = set()
    contexts = []

    def open_report(**settings: Any) -> Page:
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: fetched.add(request.url))
        page.goto(report.as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert problems == []
    assert fetched == {report.as_uri()}


def names(page: Page) -> list[str]:
    return page.locator("#scores tbody tr:not(.group) th span").all_inner_texts()


def test_sorts_by_keyboard_and_back(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    by_department = names(page)
    header = page.get_by_role("columnheader", name="Model − with single-task")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    tasks = example()["metrics"]["tasks"]
    claimed = sorted((t for t in tasks if t["claimed"]), key=lambda t: -t["difference"])
    assert names(page)[0] == "Length of stay"
    assert len(names(page)) == 44
    shown = page.locator("#scores tbody tr:not(.group) td:nth-child(6)").all_inner_texts()
    values = [text.split()[0].replace("−", "-") for text in shown]
    assert [float(v) for v in values[: len(claimed)]] == pytest.approx(
        [t["difference"] for t in claimed], abs=6e-4
    )
    assert set(values[len(claimed) :]) == {"–"}  # what has no number comes last
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert names(page)[len(claimed) - 1] == "Length of stay"
    page.get_by_role("button", name="Group by department").click()
    assert names(page) == by_department
    assert page.get_by_role("button", name="Group by department").count() == 0


def test_counts_sort_as_they_are_shown(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    button = page.get_by_role("button", name="Positives")
    button.click()
    button.click()
    shown = page.locator("#scores tbody tr:not(.group) td:nth-child(10)").all_inner_texts()
    numbers = [int(text) for text in shown if text.isdigit()]
    assert shown[0] == "<10"
    assert numbers == sorted(numbers)
    assert shown[-1] == "–"


def test_heat_map_by_mouse_and_by_keyboard(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    tasks = example()["metrics"]["tasks"]
    tim = interaction_order.arrange_tasks(
        example()["tim"], {task["task"]: task["department"] for task in tasks}
    )

    def words(i: int, j: int) -> str:
        return interaction_charts.describe_cell(
            tim, i, j, {task["task"]: task["metric"] for task in tasks}
        )

    page.get_by_text("Heat map of all pairs").click()
    chart = page.locator(HEAT_MAP)
    tip = page.locator("#tip")
    assert chart.count() == 1
    chart.locator(".mark").nth(1).hover()
    assert tip.inner_text() == words(0, 1)
    page.mouse.move(0, 0)
    assert tip.inner_text() == ""
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() == words(0, 2)
    page.keyboard.press("ArrowDown")
    assert tip.inner_text() == words(1, 2)
    page.keyboard.press("Escape")
    assert tip.inner_text() == ""


def test_arrows_of_the_graph_by_keyboard(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    page.locator(".network .chart").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert " → " in first
    assert page.locator("#tip").inner_text() not in ("", first)


def test_a_task_is_picked_by_keyboard(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    picker = page.locator(".picker")
    select = page.get_by_label("What helps this task?")
    options = select.locator("option").all_inner_texts()
    assert len(options) == 8
    select.focus()
    for key, option in (("ArrowDown", options[1]), ("End", options[-1])):
        page.keyboard.press(key)
        picked = select.evaluate("(each) => each.selectedOptions[0].textContent")
        assert picked == option
        row = page.locator(f"#{select.input_value()}")
        assert row.locator("th").text_content() == option
        for part in ("effects", "guesses"):
            shown = picker.locator(f"[data-part={part}]").inner_html()
            assert shown == row.locator(f"[data-part={part}]").inner_html()
            assert shown
    page.get_by_text("What helps each task, as a table").click()
    page.locator("[aria-label='What helps each task'] thead button").first.click()
    select.select_option(options[0])
    assert " AUROC " in picker.locator("[data-part=effects]").inner_text()


def test_without_a_script_the_table_says_what_helps(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900}, java_script_enabled=False)
    assert not page.locator(".picker").is_visible()
    page.get_by_text("What helps each task, as a table").click()
    assert page.locator("[data-part=effects] li").filter(visible=True).count() == 8


def test_fits_a_phone(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate(FITS)
    page.get_by_text("Heat map of all pairs").click()
    chart = page.locator(HEAT_MAP)
    assert chart.count() == 1
    assert chart.evaluate("e => e.scrollWidth <= e.clientWidth")
    chart.locator(".mark").nth(7).tap()
    box = page.locator("#tip").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize(
    "report",
    [{}, {"surviving": 0}, {"surviving": 1}, {"tim_tasks": 44, "full": True, "surviving": 60}],
    indirect=True,
    ids=["demo", "none", "one", "full"],
)
def test_nothing_is_wider_than_the_window(opened: Callable[..., Page]) -> None:
    """Folded up and opened; what is wide scrolls in a box of its own."""
    page = opened()
    for is_open in ("false", "true"):
        page.evaluate(
            f"document.querySelectorAll('details').forEach((each) => each.open = {is_open})"
        )
        for width in (320, 390, 768, 1000, 1200, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(FITS), (width, is_open)


def test_the_table_of_scores_is_no_wider_than_the_text(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1280, "height": 900})
    right = "(each) => each.getBoundingClientRect().right"
    assert page.locator("#scores").evaluate(right) <= page.locator("main").evaluate(right)


def test_follows_the_theme_but_prints_light(opened: Callable[..., Page]) -> None:
    page = opened(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.plot text')).fill"
    assert page.evaluate(ground) == "rgb(15, 20, 26)"
    assert page.evaluate(ink) == "rgb(230, 237, 243)"
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert page.evaluate(ink) == "rgb(27, 31, 36)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not(.long):not([open]), thead button").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.locator("#scores thead button").all_inner_texts()[:2] == ["Task", "Model"]


def test_on_paper_long_parts_are_left_out_unless_opened(opened: Callable[..., Page]) -> None:
    page = opened()
    page.locator("#curves summary").first.click()
    page.emulate_media(media="print")
    shown = page.locator("#curves details").filter(visible=True)
    assert shown.count() == 1
    assert page.get_by_text("are printed where they were opened").is_visible()


def test_first_tab_skips_to_the_results(opened: Callable[..., Page]) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_axe_finds_nothing_against_wcag_aa(opened: Callable[..., Page]) -> None:
    """Everything folded up is opened first: what is not shown is not judged. What is in a chart is
    a picture.
    """
    from axe_playwright_python.sync_playwright import Axe

    page = opened(color_scheme="dark", viewport={"width": 1200, "height": 900}, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    page.evaluate(
        "document.querySelectorAll('.chart svg').forEach((each) => each.replaceChildren())"
    )
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    results = Axe().run(page, options=rules)
    assert results.violations_count == 0, results.generate_report()
