"""Reading from S3 and GCS, against local servers: the same samples as from a disk, and its faults."""

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of, plan_of

from orchestrator import data
from orchestrator.data import files as storage
from orchestrator.data import listing
from orchestrator.errors import DataError, InfrastructureError
from orchestrator.storage import faults
from orchestrator.storage.arrow import object_store

ROWS = 200


class _FaultyProxy(BaseHTTPRequestHandler):
    """Passes requests on to the S3 server; answers the first ``failures`` object reads with 503."""

    target = ""
    failures = 0

    def _pass_on(self) -> None:
        kind = type(self)
        if kind.failures and self.command == "GET" and ".parquet" in self.path:
            kind.failures -= 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        request = Request(kind.target + self.path, data=body, method=self.command, headers=dict(self.headers))
        try:
            answer = urlopen(request)
        except Exception as error:
            answer = error
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        size = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An S3 server with one bucket, ours to fail."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    _FaultyProxy.target, _FaultyProxy.failures = f"http://{host}:{port}", 0
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _FaultyProxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.01)
    object_store.cache_clear()
    import boto3

    client = boto3.client("s3", endpoint_url=_FaultyProxy.target)
    client.create_bucket(Bucket="data")
    yield client
    object_store.cache_clear()
    proxy.shutdown()
    proxy.server_close()
    server.stop()


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A GCS server with one bucket: how to put files there, and the server."""
    from gcs_server import gcs_server

    with gcs_server("data") as server:
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", server.address)
        monkeypatch.setattr("orchestrator.storage.faults.GCS_RETRY_SECONDS", 0.2)
        monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.01)
        object_store.cache_clear()

        def put(path, name: str) -> None:
            with object_store("gs", "data").open_output_stream(f"data/{name}") as stream:
                stream.write(path.read_bytes())

        yield put, server
        object_store.cache_clear()


def write(folder) -> None:
    folder.mkdir()
    for number in range(2):
        ids = np.arange(number * 100, number * 100 + 100)
        table = pa.table({"features": ids.astype(np.float32), "label": ids % 2})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=30)


def upload(client, folder) -> None:
    for path in folder.iterdir():
        client.upload_file(str(path), "data", f"rows/{path.name}")


def samples(path: str, tmp_path, cache: str | None = None) -> list[np.ndarray]:
    kind = "csv" if path.endswith(".csv") else "parquet"
    plan = plan_of(job_of({"train": {"kind": kind, "path": path}}, batch=20), tmp_path, steps=10)
    if cache:
        plan = plan.model_copy(update={"cache": cache})
    prepared = data.prepare(plan)
    with_steps = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    return [step.micros[0]["features"] for step in with_steps]


def test_samples_are_those_of_a_disk(bucket, tmp_path):
    write(tmp_path / "rows")
    upload(bucket, tmp_path / "rows")
    here = samples(str(tmp_path / "rows"), tmp_path)
    there = samples("s3://data/rows", tmp_path)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(samples("s3://data/rows/*.parquet", tmp_path)) == 10


def test_the_cache_may_be_there_as_well(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", _FaultyProxy.target)  # the proxy takes no streamed uploads
    object_store.cache_clear()
    path = tmp_path / "a.csv"
    path.write_text("features,label\n" + "\n".join(f"{i},{i % 2}" for i in range(ROWS)) + "\n")
    bucket.upload_file(str(path), "data", "a.csv")
    first = samples("s3://data/a.csv", tmp_path, cache="s3://data/cache")
    entries = [one["Key"] for one in bucket.list_objects_v2(Bucket="data", Prefix="cache/")["Contents"]]
    assert sorted(key.split("/")[1] for key in entries) == ["label-bounds", "line-index"]
    for one, other in zip(first, samples("s3://data/a.csv", tmp_path, cache="s3://data/cache"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_fault_that_passes_is_tried_again(bucket, tmp_path):
    write(tmp_path / "rows")
    upload(bucket, tmp_path / "rows")
    _FaultyProxy.failures = 5
    assert len(samples("s3://data/rows", tmp_path)) == 10
    assert _FaultyProxy.failures == 0


def test_a_fault_that_stays_ends_in_one_sentence(bucket, tmp_path):
    write(tmp_path / "rows")
    upload(bucket, tmp_path / "rows")
    _FaultyProxy.failures = 10**6
    with pytest.raises(InfrastructureError, match=r"s3://data/rows/0.parquet: the storage failed 6 times"):
        samples("s3://data/rows/0.parquet", tmp_path)


@pytest.mark.parametrize(("server", "scheme"), [("bucket", "s3"), ("google", "gs")])
def test_what_is_not_there_is_said(server, scheme, tmp_path, request):
    request.getfixturevalue(server)
    with pytest.raises(DataError, match=f"{scheme}://data/nothing: there is no such file or folder"):
        samples(f"{scheme}://data/nothing", tmp_path)
    with pytest.raises(DataError, match=f"{scheme}://no-bucket"):
        samples(f"{scheme}://no-bucket/rows/a.parquet", tmp_path)


def test_no_server_is_an_infrastructure_error(bucket, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    object_store.cache_clear()
    assert os.environ["AWS_ENDPOINT_URL"]
    with pytest.raises((InfrastructureError, DataError), match="s3://data/rows"):
        samples("s3://data/rows", tmp_path)


def test_samples_on_gcs_are_those_of_a_disk(google, tmp_path):
    put, _ = google
    write(tmp_path / "rows")
    for path in (tmp_path / "rows").iterdir():
        put(path, f"rows/{path.name}")
    here = samples(str(tmp_path / "rows"), tmp_path)
    for pattern in ("gs://data/rows", "gcs://data/rows/*.parquet"):
        for one, other in zip(here, samples(pattern, tmp_path), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_cache_may_be_on_gcs_as_well(google, tmp_path):
    put, _ = google
    path = tmp_path / "a.csv"
    path.write_text("features,label\n" + "\n".join(f"{i},{i % 2}" for i in range(ROWS)) + "\n")
    put(path, "a.csv")
    first = samples("gs://data/a.csv", tmp_path, cache="gs://data/cache")
    entries = [one.path for one in listing.list_files("gs://data/cache", ())]
    assert [path.split("/")[-2] for path in entries] == ["label-bounds", "line-index"]
    for one, other in zip(first, samples("gs://data/a.csv", tmp_path, cache="gs://data/cache"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("contents_only", [True, False])
def test_a_fault_of_gcs_that_passes_is_tried_again(google, tmp_path, contents_only):
    put, server = google
    write(tmp_path / "rows")
    put(tmp_path / "rows" / "0.parquet", "rows/0.parquet")
    server.fail(5, 503, contents_only=contents_only)
    assert len(samples("gs://data/rows", tmp_path)) == 10
    assert server.still_failing == 0


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (503, InfrastructureError, "the storage failed 6 times"),
        (403, DataError, "can't be read .*PERMISSION_DENIED"),
        (401, DataError, "can't be read .*UNAUTHENTICATED"),
    ],
)
def test_a_fault_of_gcs_that_stays_ends_in_one_sentence(google, tmp_path, status, error, message):
    put, server = google
    write(tmp_path / "rows")
    put(tmp_path / "rows" / "0.parquet", "rows/0.parquet")
    server.fail(10**6, status)
    with pytest.raises(error, match=f"gs://data/rows/0.parquet: {message}"):
        samples("gs://data/rows/0.parquet", tmp_path)


def test_missing_credentials_are_not_waited_for():
    tried = []

    def read():
        tried.append(1)
        raise OSError(
            "google::cloud::Status(UNAVAILABLE: ... Could not create a OAuth2 access token to authenticate"
        )

    with pytest.raises(DataError, match=r"gs://data/rows: can't be read .*OAuth2 access token"):
        storage.retrying(read, "gs://data/rows")
    assert tried == [1]


def test_a_bucket_s_region_is_asked_for_where_nobody_says_it(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pyarrow.fs.resolve_s3_region", {"far": "eu-north-1"}.__getitem__)
    object_store.cache_clear()
    assert object_store("s3", "far").region == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    object_store.cache_clear()
    assert object_store("s3", "far").region == "us-west-2"
    object_store.cache_clear()
