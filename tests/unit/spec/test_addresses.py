import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.addresses import has_password, hidden, with_password, without_password
from orchestrator.spec.load import load_spec


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://ann:s3cr3t@host:5000/ml", "http://ann@host:5000/ml"),
        ("https://:s3cr3t@host", "https://@host"),
        ("postgresql+psycopg://ann:s3%40cr3t@[::1]:5432/db", "postgresql+psycopg://ann@[::1]:5432/db"),
        ("mysql://host/db?user=ann&password=s3cr3t&ssl=1", "mysql://host/db?user=ann&ssl=1"),
        ("https://host/?api_key=s3cr3t", "https://host/"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/a b/mlflow.db", "sqlite:////home/a b/mlflow.db"),
        ("databricks://profile", "databricks://profile"),
        ("databricks", "databricks"),
        ("./mlruns", "./mlruns"),
    ],
)
def test_an_address_is_shown_without_its_password(address, shown):
    assert without_password(address) == shown
    assert has_password(address) == (address != shown)
    assert "s3cr3t" not in hidden(f"can't reach {address}, s3@cr3t", address)


def test_only_the_environments_own_address_has_the_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cr3t@host")
    assert with_password("http://ann@host") == "http://ann:s3cr3t@host"
    assert with_password("http://ann@other") == "http://ann@other"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert with_password("http://ann@host") == "http://ann@host"


def test_a_job_that_would_store_a_password_is_refused_without_showing_it():
    job = {
        "name": "job",
        "model": {"family": "mlp", "size": "debug"},
        "data": {"train": {"kind": "builtin", "name": "iris"}},
        "training": {"max_steps": 1},
        "tracking": {"uri": "http://ann:s3cr3t@host"},
    }
    with pytest.raises(SpecError, match=r"tracking.uri: holds a password, which would be stored") as caught:
        load_spec(job)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(SpecError, match="holds a password"):
        load_spec({**job, "tracking": {}}, ["tracking.uri=http://ann:s3cr3t@host"])
    with pytest.raises(SpecError, match=r"environment.env.STORE: holds an address with a password") as caught:
        load_spec(
            {**job, "tracking": {}, "environment": {"env": {"STORE": "postgresql://ann:s3cr3t@host/db"}}}
        )
    assert "s3cr3t" not in str(caught.value)
    kept = {"A": "a:b@c", "B": "http://ann@host", "C": "http://[", "D": "x=1:2"}
    assert load_spec({**job, "tracking": {}, "environment": {"env": kept}}).environment.env == kept
