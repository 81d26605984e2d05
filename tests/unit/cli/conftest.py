"""What tests of several verbs call."""

import pytest

from orchestrator import cli, sdk


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Calls the verb in a folder of its own; the plan of what it wrote, and the text."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        monkeypatch.setattr("sys.argv", ["trainwright", "init", "job.yaml", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code == code, said
        if code:
            return said.err
        return sdk.make_plan("job.yaml"), (tmp_path / "job.yaml").read_text()

    return call
