import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "mlflow", "deepspeed", "kubernetes", "pyarrow", "pandas", "numpy")


def trainwright(*arguments, home):
    environment = {"PATH": "/usr/bin:/bin", "TRAINWRIGHT_HOME": str(home), "HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
        timeout=120,
        check=False,
    )


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, orchestrator.cli.app, orchestrator.spec.load, orchestrator.clusters.local.cluster, orchestrator.planning.make_plan\n"
    code += f"print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_help_takes_less_than_half_a_second_of_cpu():
    code = (
        "import subprocess, sys, resource\n"
        "subprocess.run([sys.executable, '-c', 'from orchestrator.cli import main; main()', '--help'], check=True, stdout=-3)\n"
        "usage = resource.getrusage(resource.RUSAGE_CHILDREN); print(usage.ru_utime + usage.ru_stime)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 0.5


def test_init_writes_a_job_that_is_valid_and_plans(tmp_path):
    for family in ("cnn",):
        assert trainwright("init", f"{family}.yaml", "--family", family, home=tmp_path).returncode == 0
        assert trainwright("validate", f"{family}.yaml", home=tmp_path).returncode == 0
    assert trainwright("init", "cnn.yaml", home=tmp_path).returncode == 2
    answer = trainwright(
        "plan", "cnn.yaml", "--json", "--set", "training.global_batch_size=128", home=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    made = json.loads(answer.stdout)
    assert made["plan"]["micro_batch_size"] == 64
    assert made["request"]["body"]["command"][1:3] == ["-m", "orchestrator.driver"]
    assert "global 64 = 2 workers" in trainwright("plan", "cnn.yaml", home=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("validate", "none.yaml"), 6, "none.yaml: no such file"),
        (("status", "none"), 6, "no run 'none'"),
        (("stop", "../x"), 6, "no run"),
        (("status", "x", "--cluster", "nowhere"), 6, "no cluster named 'nowhere'"),
        (("explain", "model.nothing"), 6, "no such field"),
        (("frobnicate",), 2, "no such command"),
        (("validate", "bad.yaml"), 2, "bad.yaml:1:1: name"),
    ],
)
def test_errors_are_a_sentence_and_an_exit_code(tmp_path, arguments, code, says):
    (tmp_path / "bad.yaml").write_text("name: 3 x\n")
    answer = trainwright(*arguments, home=tmp_path)
    assert answer.returncode == code
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("run", ["../evil", "Bad ID!", "a/b", ".", "..", "/tmp/evil", ""])
def test_an_id_that_is_none_is_refused_and_nothing_is_written(tmp_path, run):
    assert trainwright("init", "cnn.yaml", home=tmp_path).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    answer = trainwright("submit", "cnn.yaml", "--id", run, home=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: {run!r} is no run id: ") and answer.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("training.epochs=true", "training.epochs: true and false are no numbers"),
        ("scaling.workers=true", "scaling.workers: true and false are no numbers"),
        ("name=true", "name: true and false are no numbers and no text"),
        (
            "training.max_steps=" + "9" * 299,
            "training.max_steps: the number is larger than anything here can count",
        ),
        ("model.stage_blocks=[1000000]", "should be less than or equal to 2000"),
        ("model.width=1000000000000000000", "model.width: input should be less than 2147483648"),
        ("model.width=2000000000", "its sizes make a tensor larger than any computer can address"),
    ],
)
def test_numbers_that_are_none_or_too_large_are_one_sentence(tmp_path, change, says):
    assert trainwright("init", "cnn.yaml", home=tmp_path).returncode == 0
    answer = trainwright("plan", "cnn.yaml", "--set", change, home=tmp_path)
    assert answer.returncode == 2
    assert says in answer.stderr and answer.stderr.count("\n") == 1


def test_schema_explain_version_list(tmp_path):
    schema = json.loads(trainwright("schema", home=tmp_path).stdout)
    assert "training" in schema["properties"]
    assert (
        "learning rate"
        in trainwright("explain", "training.optimizer.learning_rate", home=tmp_path).stdout.lower()
    )
    assert json.loads(trainwright("version", "--json", home=tmp_path).stdout)["trainwright"]
    assert trainwright("list", home=tmp_path).stdout.strip() == "no runs on local"


def test_every_verb_prints_json_and_the_version_is_an_option(tmp_path):
    from typer.main import get_command

    from orchestrator import __version__
    from orchestrator.cli.app import app

    verbs = get_command(app).commands
    lacking = [
        name for name, verb in verbs.items() if "--json" not in [o for p in verb.params for o in p.opts]
    ]
    assert lacking == []
    assert trainwright("--version", home=tmp_path).stdout == f"trainwright {__version__}\n"
    assert "Exit codes" in trainwright("--help", home=tmp_path).stdout
    assert json.loads(trainwright("init", "a.yaml", "--json", home=tmp_path).stdout) == {"file": "a.yaml"}


def test_status_says_how_long_the_best_and_where_to_look(tmp_path):
    from orchestrator.records import RunRecord
    from orchestrator.runs import Best, EndReason, RunState, RunStatus

    assert trainwright("init", "cnn.yaml", home=tmp_path).returncode == 0
    made = json.loads(trainwright("plan", "cnn.yaml", "--json", home=tmp_path).stdout)["plan"]
    run = made["run_id"]
    folder = tmp_path / "runs" / run
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(made))
    started = RunStatus(run_id=run, state=RunState.RUNNING, submitted_at=1000.0, step=10, total_steps=20)
    RunRecord(str(folder)).set_state(started)
    RunRecord(str(folder)).end(
        started.with_best(Best(step=5, metric="val/loss", value=0.25)).ended(
            RunState.FAILED, EndReason.NAN_LOSS, "a loss is no number", ended_at=1075.0
        )
    )
    answer = trainwright("status", run, home=tmp_path)
    shown = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines())
    assert shown["took"] == "1m 15s" and shown["best"] == "val/loss 0.25 at step 5"
    for where in (f"trainwright logs {run}", f"trainwright export {run} --best", f"trainwright resume {run}"):
        assert where in answer.stdout
    told = json.loads(trainwright("status", run, "--json", home=tmp_path).stdout)
    assert told["seconds"] == 75.0 and told["best"]["step"] == 5
