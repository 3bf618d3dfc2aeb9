"""How large the report of a large hospital is, and how long Chromium takes to open it.

    python benchmarks/report.py [--repeats 5]

44 tasks, 5,000 test samples, all pairs of task interaction, 40 subgroups, 300 inputs compared: the
made-up results of the tests (tests/support/report_example.py). Time is from navigation to the load
event, and to the frame after all folded parts were opened. Targets: 8 MB, 2 s.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from m3h_pipeline.reports.page import write_report

EXAMPLE = Path(__file__).parents[1] / "tests" / "support" / "report_example.py"
MEGABYTES = 8
SECONDS = 2
# Milliseconds since navigation began, once what was asked for has been painted.
PAINTED = (
    "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => "
    "done(performance.now()))))"
)
OPEN_ALL = "document.querySelectorAll('details').forEach((each) => each.open = true)"


def opening(browser: Browser, page: Path) -> tuple[float, float]:
    """Seconds until the page has loaded and is painted, and until all of it, opened, is painted."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.goto(page.as_uri())
    loaded = tab.evaluate(PAINTED) / 1000
    began = tab.evaluate("performance.now()") / 1000
    tab.evaluate(OPEN_ALL)
    unfolded = tab.evaluate(PAINTED) / 1000 - began
    tab.close()
    return loaded, unfolded


def main() -> int:
    """Print size and times; the exit code is 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        sys.path.insert(0, str(EXAMPLE.parent))  # for the modules beside it
        write_report(runpy.run_path(str(EXAMPLE))["example"](tim_tasks=44, full=True), page)
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        times = [opening(browser, page) for _ in range(options.repeats)]
        browser.close()
        megabytes = page.stat().st_size / 1e6
    loaded, unfolded = (statistics.median(each) for each in zip(*times, strict=True))
    print(
        f"| size | opened and drawn | all folded parts opened |\n|---|---|---|\n"
        f"| {megabytes:.1f} MB | {loaded:.2f} s | +{unfolded:.2f} s |"
    )
    return 0 if megabytes < MEGABYTES and loaded < SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
