import pytest

from orchestrator.errors import NotFoundError, SpecError
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_profile, load_spec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.spec.schema import described, explain, json_schema

GOOD = """\
name: digits
model: {family: cnn, size: debug}
data:
  train: {kind: builtin, name: digits}
  eval: {kind: split, fraction: 0.2}
training:
  epochs: 2
"""


def write(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def errors_of(tmp_path, text, overrides=()):
    path = write(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides)
    return [line.removeprefix(str(path)) for line in str(caught.value).splitlines()]


def test_a_job_is_read_and_frozen(tmp_path):
    job = load_spec(write(tmp_path, GOOD))
    assert job.model.family == "cnn"
    with pytest.raises(Exception, match="frozen"):
        job.name = "other"


def test_a_size_fills_in_what_is_not_written(tmp_path):
    job = load_spec(write(tmp_path, GOOD), ["model.width=7"])
    assert job.model.width == 7
    assert job.model.stage_blocks == type(job.model).SIZES["debug"]["stage_blocks"]


def test_overrides_reach_lists_and_new_sections(tmp_path):
    text = GOOD + "  optimizer: {betas: [0.9, 0.95]}\n"
    job = load_spec(
        write(tmp_path, text),
        [
            "training.optimizer.betas.1=0.5",
            "scaling.workers=3",
            "training.epochs=null",
            "training.max_steps=9",
        ],
    )
    assert job.training.optimizer.betas == (0.9, 0.5)
    assert job.scaling.workers == 3
    assert job.training.max_steps == 9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("family: cnn", "family: cnnn"), ":2:1: model: family 'cnnn' is not known; did you mean 'cnn'?"),
        (("size: debug", "size: huge"), ":2:1: model: cnn has no size 'huge'"),
        (("size: debug", "hiden: 3"), "unknown field"),
        (("name: digits}", "name: digit}"), "'digit' is not one of"),
        (("epochs: 2", "epochs: ten"), ":7:3: training.epochs: 'ten' is no number"),
        (("epochs: 2", "epoch: 2"), "unknown field; did you mean 'epochs'?"),
        (("epochs: 2", "epochs: 2\n  max_steps: 3"), "exactly one of training.max_steps and training.epochs"),
        (("fraction: 0.2", "fraction: 1.5"), ":5:23: data.eval.fraction"),
        (("name: digits\n", "name: Digits!\n"), ":1:1: name: 'Digits!' must be small letters, digits and"),
        (
            ("family: cnn", "family: vision"),
            "'vision' is not known; there is mlp, cnn, rnn, lstm, gru, gpt,",
        ),
        (
            ("family: cnn, size: debug", "size: debug"),
            "model: the field 'family' must say which family it is: ",
        ),
        (("kind: builtin, ", ""), ":4:3: data.train: the field 'kind' must say which kind it is: "),
        (("family: cnn", "family: cnnn"), "did you mean 'cnn'? There is mlp, cnn, rnn"),
        (
            ("model: {family: cnn, size: debug}\n", ""),
            "model: required, but not given: architecture family and its",
        ),
        (("training:\n  epochs: 2\n", ""), "training: required, but not given"),
    ],
)
def test_an_error_names_line_field_and_remedy(tmp_path, change, says):
    lines = errors_of(tmp_path, GOOD.replace(*change))
    assert any(says in line for line in lines), lines


def test_all_errors_come_at_once(tmp_path):
    lines = errors_of(
        tmp_path, GOOD.replace("size: debug", "size: huge").replace("epochs: 2", "epochs: -1") + "nmae: 1\n"
    )
    assert len(lines) == 3


def test_a_wrong_override_is_named(tmp_path):
    lines = errors_of(tmp_path, GOOD, ["training.epochs=x"])
    assert lines == [line for line in lines if line.startswith("--set: training.epochs: ")]


@pytest.mark.parametrize("override", ["training.epochs", "=1", "a..b=1"])
def test_an_override_must_be_an_assignment(tmp_path, override):
    with pytest.raises(SpecError, match=r"field\.path=value"):
        load_spec(write(tmp_path, GOOD), [override])


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_spec(tmp_path / "bytes.yaml")
    with pytest.raises(SpecError, match="mapping"):
        load_spec(write(tmp_path, "- 1"))


@pytest.mark.parametrize("name", ["LD_PRELOAD", "RAY_ADDRESS", "PYTHONPATH", "a b", "1a"])
def test_the_environment_may_not_steer_processes(tmp_path, name):
    with pytest.raises(SpecError, match=r"environment\.env"):
        load_spec(write(tmp_path, GOOD + f"environment:\n  env: {{'{name}': x}}\n"))


def test_every_field_says_what_it_means():
    for model in (JobSpec, ClusterProfile):
        schema = json_schema(model)
        for name, section in {"": schema, **schema["$defs"]}.items():
            for field, content in section.get("properties", {}).items():
                assert described(content, schema), f"{name}.{field} has no docstring"


def test_explain_finds_a_field_in_every_family():
    entries = explain(JobSpec, "model.width")
    assert {entry["section"] for entry in entries} >= {"MlpConfig", "CnnConfig"}
    with pytest.raises(NotFoundError, match="did you mean 'width'"):
        explain(JobSpec, "model.widht")


def test_explain_lists_the_kinds_of_a_choice_with_their_fields():
    (train,) = explain(JobSpec, "data.train")
    assert train["kinds"]["builtin"] == ["name", "weight"]
    assert "separator" in train["kinds"]["csv"]
    (model,) = explain(JobSpec, "model")
    assert set(model["kinds"]) == {
        "mlp",
        "cnn",
        "rnn",
        "lstm",
        "gru",
        "gpt",
        "bert",
        "transformer",
        "gan",
        "autoencoder",
        "custom",
        "huggingface",
    }
    (training,) = explain(JobSpec, "training")
    assert training["kinds"] == {}


def test_explain_lists_the_sizes_of_a_family():
    (gpt,) = (entry for entry in explain(JobSpec, "model.size") if entry["section"] == "GptConfig")
    assert list(gpt["sizes"]) == ["debug", "nano", "124m", "350m", "774m", "1.5b", "7b"]
    assert gpt["sizes"]["124m"]["layers"] == 12


WITH_PATH = GOOD.replace("{kind: builtin, name: digits}", '{kind: csv, path: "${DATA}/${USER}/*.csv"}')


def test_a_path_takes_variables_of_the_allowed_list(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("SCRATCH", "/scratch")
    given = "initialize.weights=${SCRATCH}/start.safetensors"
    job = load_spec(write(tmp_path, WITH_PATH + "description: costs ${DATA}\n"), [given])
    assert job.data.train.path == "/data/ada/*.csv"
    assert job.initialize.weights == "/scratch/start.safetensors"
    assert job.description == "costs ${DATA}", "no path"


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        (
            "AWS_SECRET_ACCESS_KEY",
            ":4:22: data.train.path: ${AWS_SECRET_ACCESS_KEY} is not read here; a path may name",
        ),
        ("DATASETS", ":4:22: data.train.path: ${DATASETS} has no value here; export DATASETS=... first"),
    ],
)
def test_a_path_takes_no_other_variable_and_none_without_a_value(tmp_path, monkeypatch, variable, says):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("DATASETS", raising=False)
    monkeypatch.setenv("USER", "ada")
    (line,) = errors_of(tmp_path, WITH_PATH.replace("${DATA}", f"${{{variable}}}"))
    assert line.startswith(says)
    assert "secret" not in line


def test_reading_a_mapping_leaves_it_as_it_was(monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    given = {
        "name": "x",
        "model": {"family": "mlp"},
        "data": {"train": {"kind": "csv", "path": "${DATA}/x.csv"}},
        "training": {"max_steps": 1},
    }
    assert load_spec(given).data.train.path == "/data/x.csv"
    assert given["data"]["train"]["path"] == "${DATA}/x.csv"


def test_profiles_by_name_own_before_shipped(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_profile("local").kind == "local"
    folder = tmp_path / "trainwright" / "clusters"
    folder.mkdir(parents=True)
    (folder / "local.yaml").write_text("name: local\nkind: local\nstorage: /somewhere\n")
    assert load_profile("local").storage == "/somewhere"
    with pytest.raises(NotFoundError, match="did you mean 'local'"):
        load_profile("locl")
