"""The page on people's own files: what it makes, and every ``init`` that it shows, planned as written."""

import re
import shlex
from pathlib import Path

import pytest

from orchestrator import cli, sdk

PAGE = (Path(__file__).parents[3] / "docs/your-own-files.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line)
    for language, text in BLOCKS
    if not language
    for line in text.splitlines()
    if line.startswith("trainwright init ")
]
FAMILY = {
    "churn": "mlp",
    "load": "lstm",
    "reviews": "gru",
    "book": "gpt",
    "pets": "cnn",
    "tar": "cnn",
    "birds": "gru",
    "said": "gru",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (making,) = (text for language, text in BLOCKS if language == "python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(making, "your-own-files.md", "exec"), {})
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[2])
def test_what_the_page_shows_runs(folder, monkeypatch, command):
    if command[2] in ("birds.yaml", "said.yaml"):
        pytest.importorskip("soundfile")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(folder / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert sdk.make_plan(command[2]).job.model.family == FAMILY.get(command[2].removesuffix(".yaml"), "mlp")
