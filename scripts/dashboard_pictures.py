#!/usr/bin/env python3
"""Train twelve small runs of several families, serve what MLflow has of them, and take a picture of each page for the docs.

    python scripts/dashboard_pictures.py [--home FOLDER] [--to FOLDER]

Needs trainwright on the path, the package playwright and a chromium (``make pictures`` sees to the package).
With --home the runs stay there and a second call only takes the pictures again. A page is pictured once it has drawn
what it shows; where it does not come to that, the script ends with its name.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
_WIDTH, _HEIGHT = 1440, 900
_QUALITY = 60
"""Of a WebP picture: text stays readable, and a page takes 30 to 90 kB."""
_SECONDS = 120
_NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""Else a third of each page is a panel that asks for questions."""
_SHORT = (
    "training.epochs=null",
    "training.max_steps=60",
    "training.evaluate_every=20",
    "training.log_every=2",
    "scaling.workers=1",
    "tracking.system_metrics=true",
)
_REGISTERED = "tracking.register={name: digits, alias: champion}"


@dataclass(frozen=True)
class Wanted:
    """A run to train."""

    id: str
    job: str
    settings: tuple[str, ...] = ()
    fails: bool = False
    stopped_at: int = 0
    """Stopped after this step and resumed; 0: not."""


WANTED = (
    Wanted("digits-small", "digits-cnn", ("model.width=16",)),
    Wanted("digits-slow", "digits-cnn", ("training.optimizer.learning_rate=2.0e-4",)),
    Wanted("digits-sgd", "digits-cnn", ("training.optimizer={kind: sgd, learning_rate: 0.05}",)),
    Wanted("digits-two-workers", "digits-cnn", ("scaling.workers=2", "strategy={kind: fsdp}")),
    Wanted("digits-best", "digits-cnn", (_REGISTERED, "tracking.log_checkpoint=best")),
    Wanted("digits-resumed", "digits-mlp", ("training.max_steps=3000",), stopped_at=200),
    Wanted("digits-failed", "digits-mlp", ("training.optimizer.learning_rate=1.0e+30",), fails=True),
    Wanted("breast-cancer", "breast-cancer-mlp"),
    Wanted("nerve-cell", "lstm-forecast"),
    Wanted("drawn-digits", "gan-digits"),
    Wanted("python-reference", "gpt-pydoc", ("training.schedule.warmup_steps=10",)),
    Wanted("odd-digits", "autoencoder-anomaly"),
)


# -- the runs ----------------------------------------------------------------------------------------------------


def train_all(home: Path) -> None:
    """Train what is not there yet, one after another."""
    there = {run["run_id"] for run in _asked("list", "--json")} if (home / "runs").is_dir() else set()
    for wanted in WANTED:
        if wanted.id not in there:
            print(wanted.id, flush=True)
            _train(wanted)


def _train(wanted: Wanted) -> None:
    chosen = [*_SHORT, *wanted.settings]
    settings = [part for setting in chosen for part in ("--set", setting)]
    _asked("submit", f"examples/{wanted.job}.yaml", "--id", wanted.id, *settings, "--json")
    if wanted.stopped_at:
        while (_status(wanted)["step"] or 0) < wanted.stopped_at:
            time.sleep(1)
        _asked("stop", wanted.id, "--json")
        _ended(wanted)
        _asked("resume", wanted.id, "--json")
    state = _ended(wanted)
    if state != ("failed" if wanted.fails else "succeeded"):
        sys.exit(f"{wanted.id} ended {state}")


def _ended(wanted: Wanted) -> str:
    while (state := str(_status(wanted)["state"])) not in {"succeeded", "failed", "stopped"}:
        time.sleep(2)
    return state


def _status(wanted: Wanted) -> Any:
    return _asked("status", wanted.id, "--json")


def _asked(*arguments: str) -> Any:
    answer = subprocess.run(
        ["trainwright", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if not answer.stdout.strip():
        sys.exit(f"trainwright {' '.join(arguments)} answered nothing, exit code {answer.returncode}")
    return json.loads(answer.stdout)


# -- the server --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Address of the dashboard, as ``trainwright ui`` serves it."""
    command = ["trainwright", "ui", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if '"url"' in line)
        server = line.split('"')[3].partition("/#")[0]
        deadline = time.monotonic() + _SECONDS
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{server}/health", timeout=5).close()
                break
            if time.monotonic() > deadline:
                sys.exit(f"{server} does not answer")
            time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait()


def _call(server: str, path: str, content: Any) -> Any:
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/{path}", json.dumps(content).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        return json.load(answer)


# -- the pictures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A page and how it is brought to what the picture shall show."""

    name: str
    address: str
    shows: tuple[str, ...]
    """Texts that stand on the page once it has drawn itself."""
    clicked: str = ""
    """A text to click on first."""


def pictures(server: str) -> Iterator[Picture]:
    """All of them."""
    experiment = _call(server, "experiments/search", {"max_results": 10, "filter": "name = 'trainwright'"})
    number = experiment["experiments"][0]["experiment_id"]
    found = _call(server, "runs/search", {"experiment_ids": [number], "max_results": 50})["runs"]
    ids = {run["info"]["run_name"]: run["info"]["run_id"] for run in found}
    models = _call(
        server,
        "logged-models/search",
        {"experiment_ids": [number], "filter": f"source_run_id = '{ids['digits-best']}'", "max_results": 50},
    )["models"]
    best = max(models, key=lambda model: len(model["data"].get("metrics", [])))["info"]["model_id"]
    digits = [ids[name] for name in ids if name.startswith("digits-") and name != "digits-failed"]
    at = f"/#/experiments/{number}"
    run = f"{at}/runs/{ids['digits-best']}"
    compared = f"/#/compare-runs?runs={quote(json.dumps(digits))}&experiments={quote(json.dumps([number]))}"
    yield Picture("runs", f"{at}/runs?viewStateShareKey=trainwright", ("digits-best", "digits-failed"))
    yield Picture(
        "charts", f"{at}/runs?viewStateShareKey=trainwright&compareRunsMode=CHART", ("digits-best", "loss")
    )
    yield Picture("run", run, ("digits-best", "val/accuracy"))
    yield Picture("metrics", f"{run}/model-metrics", ("learning_rate", "accuracy"))
    yield Picture("system", f"{run}/system-metrics", ("cpu_utilization_percentage",))
    yield Picture("report", f"{run}/artifacts/report.html", ("report.html", "plan.json"))
    yield Picture(
        "samples",
        f"{at}/runs/{ids['drawn-digits']}/artifacts/samples/step-00000060.png",
        ("step-00000060.png",),
    )
    yield Picture("models", f"{at}/models", ("digits-cnn",))
    yield Picture("model", f"{at}/models/{best}", ("digits-cnn", "Model ID"))
    yield Picture("registered", "/#/models/digits", ("digits", "Version 1"))
    yield Picture("compared", compared, ("Parallel Coordinates",))


def take(browser: Browser, server: str, picture: Picture, folder: Path, as_png: Path | None) -> None:
    """Take one picture."""
    context = browser.new_context(viewport={"width": _WIDTH, "height": _HEIGHT})
    context.add_init_script(_NO_ASSISTANT)
    page = context.new_page()
    page.goto(server + _with_workflow(picture.address))
    if picture.clicked:
        page.get_by_text(picture.clicked).first.click()
    for text in picture.shows:
        page.get_by_text(text).first.wait_for(timeout=_SECONDS * 1000)
    _wait_until_still(page)
    (folder / f"{picture.name}.webp").write_bytes(_webp(page))
    if as_png is not None:
        page.screenshot(path=as_png / f"{picture.name}.png")
    context.close()


def _with_workflow(address: str) -> str:
    """Without the workflow type, MLflow opens on its pages for agents."""
    return f"{address}{'&' if '?' in address else '?'}workflowType=machine_learning"


def _wait_until_still(page: Page) -> None:
    """Until nothing is loaded and two pictures a second apart are the same."""
    with contextlib.suppress(Exception):  # a running run's page asks again and again
        page.wait_for_load_state("networkidle", timeout=15_000)
    before = b""
    for _ in range(30):
        now = page.screenshot()
        if now == before:
            return
        before = now
        page.wait_for_timeout(1_000)


def _webp(page: Page) -> bytes:
    session = page.context.new_cdp_session(page)
    answer = session.send("Page.captureScreenshot", {"format": "webp", "quality": _QUALITY})
    return base64.b64decode(answer["data"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, serve, take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--home", type=Path, help="where the runs are kept; default: a folder that is thrown away"
    )
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--png", type=Path, help="a folder for uncompressed copies")
    parser.add_argument("--only", nargs="*", help="names of pictures")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        home: Path = options.home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["TRAINWRIGHT_HOME"] = str(home.resolve())
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        train_all(home)
        for folder in filter(None, (options.to, options.png)):
            folder.mkdir(parents=True, exist_ok=True)
        server = stack.enter_context(served())
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--hide-scrollbars"]
        )
        for picture in pictures(server):
            if not options.only or picture.name in options.only:
                take(browser, server, picture, options.to, options.png)
                print(picture.name, flush=True)
        browser.close()


if __name__ == "__main__":
    main()
