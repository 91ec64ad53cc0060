"""The README's pictures of MLflow's pages and of our reports, by headless Chromium.

    make ui                                    # in one terminal, after the README's walk and make tune TRIALS=12
    .venv/bin/python docs/screenshots.py       # in another: writes docs/runs.png, charts.png, artifacts.png,
                                               # models.png, eda.png, tune.png, board.png

`tests/test_browser.py` looks at the same pages of MLflow.

Wants Debian's chromium and chromium-driver.
"""

import argparse
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By

HERE = Path(__file__).resolve().parent
SIZE = (1500, 1000)  # px, MLflow's pages at their default layout
LIMIT_S = 90
NAMED = "[data-component-id*='{}']"
EXPANDER = NAMED.format("runnamecellrenderer")  # the sign before a run that has children
ASSISTANT = NAMED.format("mlflow.assistant.chat_panel.close")  # MLflow 3.17 opens it over the page
os.environ["SE_AVOID_STATS"] = "true"  # selenium would tell its makers


@contextmanager
def chromium() -> Generator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     f"--window-size={SIZE[0]},{SIZE[1]}"):  # fmt: skip
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or ""
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver") or ""))
    try:
        yield driver
    finally:
        driver.quit()


class Pages:
    """MLflow's pages of one experiment: each is opened, waited for until it shows what is wanted, and photographed."""

    def __init__(self, driver: webdriver.Chrome, server: str, experiment: str, folder: Path):
        self.driver, self.folder, self.server = driver, folder, server
        self.client = MlflowClient(server)
        self.id = self.client.get_experiment_by_name(experiment).experiment_id

    def youngest(self, stage: str) -> str:
        """The id of the youngest run of a stage."""
        return self.client.search_runs([self.id], f"tags.stage = '{stage}'", max_results=1)[0].info.run_id

    def runs(self) -> str:
        """The table of runs, with the folds of trainings shown beneath them; the page's text."""
        self._open("/runs?workflowType=machine_learning", ["cv ·", "submission ·", "folds", "eda"])
        self._wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, EXPANDER), "a run with children")
        for button in self.driver.find_elements(By.CSS_SELECTOR, EXPANDER)[:1]:
            button.click()
        self._wait(lambda: "fold-0" in self._text(), "the folds")
        return self._picture("runs")

    def charts(self) -> str:
        """What each epoch of a fold came to, as curves."""
        run = self.youngest("fold")
        self.driver.set_window_size(SIZE[0], 1600)  # charts below the window's end are not drawn
        self._open(f"/runs/{run}/model-metrics?workflowType=machine_learning", ["train_loss", "valid_loss"])
        self._wait(
            lambda: len(self.driver.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .svg-container")) > 5, "curves"
        )
        text = self._picture("charts")
        self.driver.set_window_size(*SIZE)
        return text

    def artifacts(self) -> str:
        """A training's files, with the curves of all folds opened."""
        run = self.youngest("cv")
        self._open(f"/runs/{run}/artifacts/curves.png?workflowType=machine_learning",
                   ["oof.parquet", "mistakes.png", "classes.csv", "settings.yaml"])  # fmt: skip
        drawn = "return [...document.images].some(i => i.naturalWidth > 600 && i.complete)"
        self._wait(lambda: self.driver.execute_script(drawn), "the picture")
        return self._picture("artifacts")

    def models(self) -> str:
        """Every checkpoint and every ensemble, with their scores."""
        self._open("/models?workflowType=machine_learning", ["fold-0", "-ensemble"])
        return self._picture("models")

    def _open(self, page: str, texts: list[str]) -> None:
        self.driver.get("about:blank")  # else a page that differs behind the # alone is not loaded anew
        self.driver.get(f"{self.server}/#/experiments/{self.id}{page}")
        for text in texts:
            self._wait(lambda text=text: text in self._text(), text)
        for button in self.driver.find_elements(By.CSS_SELECTOR, ASSISTANT):
            button.click()

    def _text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def _wait(self, condition, wanted: str) -> None:
        give_up = time.monotonic() + LIMIT_S
        while True:
            try:
                if condition():
                    return
            except (StaleElementReferenceException, WebDriverException):  # the page draws itself anew
                pass
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self.driver.current_url} does not show {wanted!r}: {self._text()[:1000]}")
            time.sleep(0.2)

    def _picture(self, name: str) -> str:
        time.sleep(2)  # it draws in steps
        whole = Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        whole.quantize(64).save(self.folder / f"{name}.png", optimize=True)  # a third of the bytes
        return self._text()


def reports(driver: webdriver.Chrome, runs: Path, experiment: str, folder: Path) -> None:
    """The upper part of the first look and of the youngest search, and the board's picture."""
    driver.set_window_size(SIZE[0] - 300, SIZE[1] + 150)
    pages = {"eda": runs / experiment / "eda/eda.html"}
    if studies := sorted((runs / experiment).glob("tune-*/tune.html"), key=lambda path: path.stat().st_mtime):
        pages["tune"] = studies[-1]
    for name, page in pages.items():
        driver.get(page.absolute().as_uri())
        time.sleep(1)
        whole = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        whole.quantize(64).save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png")
    board = runs / f"board-{experiment}.png"
    if board.is_file():
        Image.open(board).convert("RGB").quantize(64).save(folder / "board.png", optimize=True)
        print(folder / "board.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:5000")
    parser.add_argument("--experiment", default="digits")
    parser.add_argument("--folder", type=Path, default=HERE)
    args = parser.parse_args()
    with chromium() as driver:
        reports(driver, HERE.parent / "mlruns", args.experiment, args.folder)
        driver.set_window_size(*SIZE)
        pages = Pages(driver, args.server, args.experiment, args.folder)
        for page in (pages.runs, pages.charts, pages.artifacts, pages.models):
            page()
            print(args.folder / f"{page.__name__}.png")


if __name__ == "__main__":
    main()
