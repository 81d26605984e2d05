import io
import subprocess
import zipfile

import pytest
from cluster_cases import plan
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.clusters.shared.ignore_rules import IgnoreRules
from orchestrator.clusters.shared.packaging import (
    PLAN_NAME,
    list_own_code,
    list_package,
    list_working_dir,
    pack,
    pack_own_code,
)
from orchestrator.errors import NotFoundError, SpecError
from orchestrator.planning.plan import Plan


def write(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def names(listing):
    return [file.name for file in listing.files]


def job_in(folder):
    return plan(base_dir=folder, environment={"working_dir": "."})


def test_code_travels_and_what_is_ignored_secret_or_data_stays(tmp_path):
    write(
        tmp_path,
        **{
            "train.py": "x = 1",
            "models/mine.py": "y = 2",
            ".trainwrightignore": "notes/\n*.tmp\n!keep.tmp\n!small.npy",
            "notes/a.txt": "",
            "a.tmp": "",
            "keep.tmp": "",
            "big.parquet": "",
            "small.npy": "",
            ".env": "TOKEN=1",
            "keys/server.pem": "",
            ".git/config": "",
            "__pycache__/train.pyc": "",
            ".aws/credentials": "",
        },
    )
    listing = list_working_dir(tmp_path)
    assert names(listing) == [".trainwrightignore", "keep.tmp", "models/mine.py", "small.npy", "train.py"]
    assert dict(listing.left_out) == {
        "notes": "ignored",
        "a.tmp": "ignored",
        "big.parquet": "data",
        ".env": "secret",
        "keys/server.pem": "secret",
        ".aws": "secret",
    }
    assert (
        "left out as secret: .aws, .env, keys/server.pem; left out as data: big.parquet" in listing.summary()
    )


def test_no_ignore_file_brings_a_secret_back(tmp_path):
    write(tmp_path, **{".trainwrightignore": "!.env\n!*", ".env": "A=1"})
    assert ".env" not in names(list_working_dir(tmp_path))


def test_a_private_key_under_any_name_is_refused(tmp_path):
    write(tmp_path, **{"conf/settings.txt": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc"})
    with pytest.raises(
        SpecError, match=r"settings\.txt holds a private key.*/conf/settings\.txt to \.trainwrightignore"
    ):
        list_working_dir(tmp_path)
    write(tmp_path, **{".trainwrightignore": "/conf/settings.txt"})
    assert names(list_working_dir(tmp_path)) == [".trainwrightignore"]


def test_links_out_of_the_folder_and_to_nothing_stay(tmp_path):
    inside = write(tmp_path / "work", **{"a.py": ""})
    outside = write(tmp_path / "other", **{"secret.txt": "s"})
    (inside / "out.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "nothing").symlink_to(inside / "no")
    (inside / "b.py").symlink_to(inside / "a.py")
    listing = list_working_dir(inside)
    assert names(listing) == ["a.py", "b.py"]
    assert {name for name, why in listing.left_out if why == "link"} == {
        "out.txt",
        "folder",
        "loop",
        "nothing",
    }


def test_a_link_to_what_stays_behind_stays_behind(tmp_path):
    write(
        tmp_path,
        **{
            ".trainwrightignore": "private/\n*.log",
            ".env": "A=1",
            "private/notes.txt": "",
            "run.log": "",
            "a.py": "",
        },
    )
    write(tmp_path, **{".git/config": "", "keys/server.pem": ""})
    links = {
        "settings.txt": ".env",
        "notes.txt": "private/notes.txt",
        "log.txt": "run.log",
        "config.txt": ".git/config",
        "server.txt": "keys/server.pem",
        "again.txt": "settings.txt",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "b.py").symlink_to("a.py")
    listing = list_working_dir(tmp_path)
    assert names(listing) == [".trainwrightignore", "a.py", "b.py"]
    assert {name for name, why in listing.left_out if why == "link"} == links.keys()


@pytest.mark.parametrize(
    "name",
    [
        ".envrc",
        "prod.env",
        ".ENV",
        "Prod.Env",
        ".boto",
        ".s3cfg",
        ".pgpass",
        "terraform.tfstate",
        "terraform.tfstate.backup",
        "prod.tfvars",
        "kaggle.json",
        "Kaggle.JSON",
        ".netrc",
        "_netrc",
        ".aws/credentials",
        ".AWS/credentials",
        ".azure/token.json",
        ".huggingface/token",
        "ID_RSA",
        "server.PEM",
        "service_account.json",
        "application_default_credentials.json",
        ".vault-token",
        "rclone.conf",
        ".databrickscfg",
        ".my.cnf",
        ".config/gcloud/x.db",
        "client_secret_12.json",
        "prod.kubeconfig",
        "My-Secret.YAML",
        ".streamlit/secrets.toml",
    ],
)
def test_what_holds_credentials_by_its_name_stays(tmp_path, name):
    write(
        tmp_path, **{name: "x", "train.py": "", "credentials.py": "", "environment.yaml": "", "tokens.py": ""}
    )
    listing = list_working_dir(tmp_path)
    assert names(listing) == ["credentials.py", "environment.yaml", "tokens.py", "train.py"]
    assert [why for _, why in listing.left_out] == ["secret"]


@pytest.mark.parametrize(
    ("parts", "kind"),
    [  # in parts, so that this file holds none
        (("AKIA", "ABCDEFGHIJKLMNOP"), "an AWS access key"),
        (("ghp_", "a" * 36), "a GitHub token"),
        (("glpat-", "a" * 20), "a GitLab token"),
        (("hf_", "A" * 34), "a Hugging Face token"),
        (("AIza", "b" * 35), "a Google API key"),
        (("sk-ant-", "c" * 40), "an OpenAI or Anthropic key"),
        (("xoxb-", "1234567890-abc"), "a Slack token"),
        (("npm_", "d" * 36), "an npm or PyPI token"),
        (("dapi", "0" * 32), "a Databricks token"),
        (("AccountKey=", "A" * 86, "=="), "an Azure storage key"),
        (('"private_key": "-----', "BEGIN PRIVATE KEY-----\\nMIIE"), "a private key"),
        (("client-key-data: ", "A" * 40), "a Kubernetes login"),
        (("aws_secret_access_key = ", "w" * 40), "an AWS secret key"),
        (("sk_live_", "9" * 24), "a Stripe key"),
        (("SG.", "a" * 22, ".", "b" * 43), "a SendGrid key"),
        (("WANDB_API_KEY=", "0" * 40), "a Weights & Biases login"),
        (('"auth": "', "dXNlcjpw" * 3, '"'), "a Docker login"),
        (("postgresql://me:", "Tr0ub4dor", "@db.example"), "an address with a password"),
    ],
)
def test_credentials_in_any_file_are_refused_and_named(tmp_path, parts, kind):
    write(tmp_path, **{"deep/settings.py": f"x = 1\nvalue = '{''.join(parts)}'\n"})
    with pytest.raises(SpecError, match=rf"settings\.py holds {kind}; move it out"):
        list_working_dir(tmp_path)


def test_code_that_only_looks_secret_travels(tmp_path):
    code = (
        "password = os.environ['PASSWORD']\n"
        f"sha = '{'0123456789abcdef' * 4}'\n"
        "mark = b'-----BEGIN PRIVATE KEY-----'\n"
        "hf_hub_download('x')\nsk-learn\nAKIA\n"
        "see https://example.com:8080/a@b and postgresql://user:password@host/db, s3://bucket/a:b\n"
        "uri = f'postgresql://{user}:{password}@{host}'; other = 'postgresql://me:${PASSWORD}@db'\n"
        "aws_secret_access_key = os.environ['AWS_SECRET_ACCESS_KEY']\n"
    )
    write(tmp_path, **{"train.py": code})
    assert names(list_working_dir(tmp_path)) == ["train.py"]


def test_a_folder_that_would_hide_ours_is_refused(tmp_path):
    write(tmp_path, **{"orchestrator/__init__.py": ""})
    with pytest.raises(SpecError, match="would hide the package of the same name"):
        list_working_dir(tmp_path)


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(NotFoundError, match="is not a folder"):
        list_working_dir(tmp_path / "no")


def test_too_large_is_refused_with_what_is_largest(tmp_path):
    write(tmp_path, **{"big.txt": "x" * 3000, "b.py": "x" * 500})
    with pytest.raises(
        SpecError, match=r"2 files, 3\.5KB \(largest: big\.txt 3KB, b\.py 500B\), but at most 2KB can travel"
    ):
        pack(job_in(tmp_path), with_own_code=False, largest_bytes=2000)


def test_a_package_holds_the_plan_our_code_and_theirs_and_is_always_the_same(tmp_path):
    write(tmp_path, **{"models/mine.py": "y = 2"})
    wanted = job_in(tmp_path)
    content = pack(wanted, with_own_code=True)
    assert content == pack(wanted, with_own_code=True)
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert Plan.model_validate_json(archive.read(PLAN_NAME)) == wanted
    inside = set(archive.namelist())
    assert {
        "models/mine.py",
        "orchestrator/driver.py",
        "orchestrator/models/base.py",
        "orchestrator/clusters/base.py",
    } <= inside
    assert not any(
        "__pycache__" in name or name.startswith("orchestrator/clusters/profiles/.") for name in inside
    )


def test_our_code_alone_is_small():
    assert (
        "orchestrator/clusters/shared/record_tool.py"
        in zipfile.ZipFile(io.BytesIO(pack_own_code())).namelist()
    )
    assert list_own_code().size_bytes < 5e6


def test_without_a_working_directory_only_our_code_travels():
    assert list_package(plan(), with_own_code=False).files == ()
    assert all(name.startswith("orchestrator/") for name in names(list_package(plan(), with_own_code=True)))


segment = st.text("ab.c", min_size=1, max_size=3).filter(
    lambda text: text not in (".", "..") and not text.startswith(".git")
)
paths = st.lists(segment, min_size=1, max_size=3).map("/".join)
patterns = st.one_of(
    paths,
    paths.map(lambda path: f"/{path}"),
    paths.map(lambda path: f"{path}/"),
    paths.map(lambda path: f"!{path}"),
    st.sampled_from(
        [
            "*",
            "*.c",
            "a*",
            "**/b",
            "a/**",
            "a/**/b",
            "?",
            "[ab]",
            "[!a]c",
            "/*",
            "!*.c",
            "# note",
            "",
            "\\!a",
            "b?/",
        ]
    ),
)


@settings(max_examples=60)
@given(st.lists(patterns, min_size=1, max_size=4), st.sets(paths, min_size=1, max_size=6))
def test_patterns_mean_what_they_mean_to_git(tmp_path_factory, rules, files):
    folder = tmp_path_factory.mktemp("git")
    files = {
        path for path in files if not any(other != path and other.startswith(f"{path}/") for other in files)
    }
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("")
    (folder / ".gitignore").write_text("\n".join(rules))
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    listed = subprocess.run(
        ["git", "-c", "core.quotepath=off", "ls-files", "--others", "--exclude-standard"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    kept_by_git = set(listed.stdout.splitlines()) - {".gitignore"}
    ours = IgnoreRules(rules)

    def kept(path):
        parts = path.split("/")
        folders = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        return not any(ours.ignores(above, is_folder=True) for above in folders) and not ours.ignores(
            path, is_folder=False
        )

    assert {path for path in files if kept(path)} == kept_by_git
