"""The page: one file without network, small for long runs, readable in a browser by keyboard."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gcdist.report import judge, read_run, write_report
from gcdist.report.whatif import WhatIf
from tests.report.made_runs import made_run

MOST_BYTES = 5_000_000
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    runs = [
        read_run(made_run(folder / "first <b>run", 400, 8, slow_link=4, slow=6)),
        read_run(made_run(folder / "second", 50, 3, seed=1)),
    ]
    whatif = [WhatIf(("straggler.deadline=0.2",), 10.0, 0.2, 0.5, 5.0, 0.1, 1e6)]
    write_report([(run, judge(run), whatif) for run in runs], folder / "report.html")
    return folder / "report.html"


def test_the_page_needs_no_network_and_escapes_what_it_shows(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=['"](?!#|data:)""", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "<b>run" not in text
    assert "first &lt;b&gt;run" in text
    assert "Worker 4 is slow because of its link: 200 kbit/s" in text
    assert "Worker 6 is slow because of its computing" in text
    assert "Settings in which the runs differ" in text


def test_a_long_run_of_many_workers_is_a_small_page(tmp_path: Path) -> None:
    path = tmp_path / "long"
    steps, workers = 10_000, 64
    path.mkdir()
    (path / "config.toml").write_text(f"steps = {steps}\n[cluster]\nworkers = {workers}\n")
    arrived = list(range(1, workers + 1))
    with (path / "metrics.jsonl").open("w") as metrics, (path / "events.jsonl").open("w") as events:
        for step in range(steps):
            line = {
                "step": step, "seconds": 0.1 * step + 0.1, "step_seconds": 0.1, "loss": 1.0 / (step + 1.234567),
                "live": workers, "arrived": arrived[step % 7 :], "away": [], "bytes_up": 123_456, "bytes_down": 654_321,
                "deadline": 0.1234567, "why": "deadline", "plan_id": step // 20, "noise_planned": 0.0123456,
                "noise_observed": 0.0234567 + step,
            }  # fmt: skip
            metrics.write(json.dumps(line) + "\n")
            events.write(
                json.dumps({"time": 1e9 + step, "step": step, "kind": "drop", "text": f"worker 3, step {step}"}) + "\n"
            )
    began = time.perf_counter()
    run = read_run(path)
    write_report([(run, judge(run), [])], tmp_path / "report.html")
    took = time.perf_counter() - began
    assert (tmp_path / "report.html").stat().st_size < MOST_BYTES
    assert took < 60  # about 1 s


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver is installed (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, Service(driver))
    yield opened
    opened.quit()


def open_page(browser: Any, page: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page.as_uri())
    WebDriverWait(browser, 30).until(
        lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes"
    )


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_a_browser_opens_the_page_and_moves_through_it_by_keyboard(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get_log("browser")
    open_page(browser, page)
    figures = browser.find_elements(By.CSS_SELECTOR, "figure")
    assert len(figures) == 2 + 2 * 7
    drawn = browser.find_elements(By.CSS_SELECTOR, "figure .plot > [role=img]")
    assert len(drawn) == len(figures) - 2  # the made runs have no plans: no bits
    reached = set()
    for _ in range(80):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        here = browser.execute_script("return document.activeElement.closest('figure')?.id ?? ''")
        if here and here not in reached:
            reached.add(here)
            said = f"return document.getElementById({json.dumps(here)}).querySelector('.readout').textContent"
            before = browser.execute_script(said)
            browser.switch_to.active_element.send_keys(Keys.HOME)
            first = browser.execute_script(said)
            browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN if "heat" in here else Keys.ARROW_RIGHT)
            second = browser.execute_script(said)
            assert before, here
            assert first, here
            assert second not in ("", first), here
    assert len(reached) == len(drawn)
    assert errors(browser) == []


def test_the_heat_map_says_who_counted_when(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    heat = browser.find_element(By.CSS_SELECTOR, "#run-0-heat canvas")
    browser.execute_script("arguments[0].focus()", heat)
    heat.send_keys(Keys.HOME, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    said = browser.find_element(By.CSS_SELECTOR, "#run-0-heat .readout").text
    assert said == "worker 4 (link), steps 0 to 1: counted in about 0%"


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (375, 740)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_screens_and_schemes(browser: Any, page: Path, width: int, height: int, scheme: str) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        open_page(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", back)[:3]) / 3
        assert (light > 128) == (scheme == "light")
        assert errors(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
