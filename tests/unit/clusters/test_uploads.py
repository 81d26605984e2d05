"""Data of a person's own, on its way to a claim, a bucket and a shared folder: whole under its name, or not there."""

import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest
from cluster_cases import kubernetes_profile, ray_profile
from fake_kubernetes import FakeKubernetes
from object_buckets import bucket_at

from orchestrator import sdk
from orchestrator.clusters.shared.uploads import wire
from orchestrator.clusters.shared.uploads.folder import FolderTarget
from orchestrator.clusters.shared.uploads.send import list_source, place_for, send
from orchestrator.data.listing import list_files
from orchestrator.errors import DataError, InfrastructureError, NotFoundError, SpecError
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import store_at

LARGE = os.urandom(5 * 2**16 + 17)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "my-data"
    (folder / "cats").mkdir(parents=True)
    (folder / "a.csv").write_bytes(b"x,y\n1,2\n")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "cats" / "größe 1.png").write_bytes(LARGE)
    (folder / "cats" / "again.png").symlink_to("größe 1.png")
    return folder


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def server(tmp_path, monkeypatch):
    with FakeKubernetes() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path)))
        yield running


class Claim:
    """Kubernetes with a claim: pods' commands are processes here, whose claim is a folder."""

    def __init__(self, folder, server):
        self.storage, self.server = folder / "claim", server
        self.storage.mkdir()
        self.profile = kubernetes_profile({"storage_claim": "data"}, storage=str(self.storage))

    def leaves_nothing(self):
        return not self.server.objects["pods"]


class Shared:
    """A Ray cluster whose folder this machine has."""

    def __init__(self, folder, server):
        self.storage = folder / "shared"
        self.storage.mkdir()
        self.profile = ray_profile(storage=str(self.storage))

    def leaves_nothing(self):
        return True


@pytest.fixture(params=[Claim, Shared])
def place(request, tmp_path, server):
    return request.param(tmp_path, server)


def test_a_folder_arrives_whole_under_its_name(place, source):
    told = []
    made = sdk.upload(source, place.profile, on_sent=lambda done, total: told.append((done, total)))
    assert made.path == f"{place.storage}/data/my-data"
    assert tree(made.path) == tree(source)
    size = 2 * len(LARGE) + 8
    assert (made.files, made.bytes, made.sent_bytes) == (4, size, size)
    assert told[-1] == (size, size)
    assert told == sorted(told)
    assert names(place.storage / "data") == ["my-data"]
    assert place.leaves_nothing()


def test_one_file_arrives_under_the_name_that_is_asked_for(place, source):
    made = sdk.upload(source / "a.csv", place.profile, to="tables/first.csv")
    assert Path(made.path) == place.storage / "data" / "tables" / "first.csv"
    assert Path(made.path).read_bytes() == b"x,y\n1,2\n"


def test_a_name_that_is_taken_is_refused_and_replaced_only_where_that_is_asked(place, source):
    sdk.upload(source, place.profile)
    before = tree(place.storage)
    (source / "b.csv").write_bytes(b"new")
    (source / "a.csv").unlink()
    with pytest.raises(SpecError, match=r"my-data is there already; give another --to, or --replace"):
        sdk.upload(source, place.profile)
    assert tree(place.storage) == before
    made = sdk.upload(source, place.profile, replace=True)
    assert tree(place.storage / "data") == {
        f"my-data/{path}": content for path, content in tree(source).items()
    }
    assert made.sent_bytes == made.bytes
    assert place.leaves_nothing()


def test_one_that_is_cut_off_has_no_name_and_is_gone_on_with(tmp_path, server, source):
    place = Claim(tmp_path, server)
    server.cut_off_after_bytes = len(LARGE) // 2
    with pytest.raises(
        InfrastructureError, match=r"what has arrived is kept, and the same command goes on with it"
    ):
        sdk.upload(source, place.profile)
    assert names(place.storage / "data") == [".my-data.upload"]
    assert not server.objects["pods"]
    made = sdk.upload(source, place.profile)
    assert tree(made.path) == tree(source)
    assert 0 < made.sent_bytes < made.bytes
    assert made.bytes - made.sent_bytes >= 2**16
    assert names(place.storage / "data") == ["my-data"]


def test_what_changed_since_one_was_cut_off_is_sent_anew(tmp_path, server, source):
    place = Claim(tmp_path, server)
    server.cut_off_after_bytes = len(LARGE) + 100_000
    with pytest.raises(InfrastructureError):
        sdk.upload(source, place.profile)
    other = bytearray(LARGE)
    other[5] ^= 1
    (source / "cats" / "größe 1.png").write_bytes(other)
    (source / "a.csv").unlink()
    made = sdk.upload(source, place.profile)
    assert tree(made.path) == tree(source)


def test_bytes_that_arrive_changed_are_no_upload(tmp_path):
    target = FolderTarget(str(tmp_path / "to"), replace=False)
    target.begin({"a": 3})
    with pytest.raises(
        InfrastructureError, match="a arrived with other bytes than it was sent with; upload it again"
    ):
        target.put("a", 0, iter([b"abX"]), hashlib.sha256(b"abc").hexdigest)
    assert not (tmp_path / "to").exists()
    target.close()


def test_a_full_claim_is_said_before_anything_is_sent(tmp_path, source, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(
        InfrastructureError,
        match=r"has room for 10B, and 655.*KB are to come; make room, or take a larger volume",
    ):
        sdk.upload(source, Shared(tmp_path, None).profile)


def test_two_uploads_to_one_name_do_not_mix(tmp_path, source):
    profile = Shared(tmp_path, None).profile
    first = FolderTarget(place_for(profile, "my-data", None), replace=False)
    first.begin({"a": 1})
    with pytest.raises(
        SpecError, match=r"another upload to .*my-data is going on; wait for it, or give another --to"
    ):
        sdk.upload(source, profile)
    first.close()
    sdk.upload(source, profile)


def test_a_link_out_of_the_folder_is_refused(tmp_path, source):
    (tmp_path / "secret").write_text("secret")
    (source / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(
        SpecError, match=r"my-data/out is a link out of the folder, to .*/secret; put the file itself there"
    ):
        list_source(source)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda folder: (folder / "l").symlink_to(folder / "cats"),
            "l is a link to a folder; put the folder itself there",
        ),
        (lambda folder: (folder / "l").symlink_to("nowhere"), "l is a link to nothing; take it out"),
        (lambda folder: os.mkfifo(folder / "l"), "l is no file; take it out of the folder"),
        (
            lambda folder: (folder / os.fsdecode(b"\xff")).write_text(""),
            "its name is not UTF-8; rename it",
        ),
    ],
    ids=["folder", "nothing", "fifo", "name"],
)
def test_what_can_not_be_sent_is_refused(source, make, said):
    make(source)
    with pytest.raises(SpecError, match=said):
        list_source(source)


def test_nothing_to_send_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="empty holds no file"):
        list_source(tmp_path / "empty")
    with pytest.raises(NotFoundError, match="there is no such folder or file"):
        list_source(tmp_path / "nowhere")


def test_a_file_that_becomes_shorter_meanwhile_is_no_upload(tmp_path, source):
    files = list_source(source)
    (source / "cats" / "größe 1.png").write_bytes(b"short")
    target = FolderTarget(str(tmp_path / "to"), replace=False)
    with pytest.raises(
        SpecError, match="has become shorter since it was listed; upload the folder when it rests"
    ):
        send(files, target, lambda done, total: None)
    target.close()
    assert not (tmp_path / "to").exists()


CLAIMS = {
    "storage_claim": "data",
    "claims": [
        {"claim": "own", "path": "/data/own", "read_only": False},
        {"claim": "theirs", "path": "/data/theirs"},
    ],
}


@pytest.mark.parametrize(
    ("to", "place"),
    [
        (None, "/mnt/data/my-data"),
        ("a/b/", "/mnt/data/a/b"),
        ("/mnt/data/x", "/mnt/data/x"),
        ("/data/own/x", "/data/own/x"),
        ("/data/theirs/x", None),
        ("/mnt/runs/x", None),
        ("../runs/x", None),
        ("/mnt/data", None),
        (".hidden", None),
    ],
)
def test_uploads_go_where_no_run_lies_and_jobs_may_write(to, place):
    profile = kubernetes_profile(CLAIMS, storage="/mnt")
    if place is not None:
        assert place_for(profile, "my-data", to) == place
        return
    with pytest.raises(SpecError, match=r"^--to: "):
        place_for(profile, "my-data", to)


def test_this_machine_needs_no_upload(tmp_path, source):
    with pytest.raises(
        SpecError, match="cluster local is this machine, so nothing is uploaded: write the folder itself"
    ):
        sdk.upload(source, ClusterProfile(name="local", kind="local", storage=str(tmp_path)))


def test_a_folder_that_only_nodes_reach_is_said(source):
    with pytest.raises(
        InfrastructureError, match="/nowhere is a folder that only its nodes reach; mount it here"
    ):
        sdk.upload(source, ray_profile(storage="/nowhere"))


@pytest.mark.parametrize(
    ("denied", "said"),
    [
        (
            ("create", "pods"),
            "you have no right to create pods in namespace training; .*the chart's <name>-storage does",
        ),
        (
            ("create", "pods/exec"),
            "you have no right to create pods/exec in namespace training; .*<name>-storage does",
        ),
    ],
)
def test_a_right_that_is_missing_is_named(tmp_path, server, source, denied, said):
    server.denied.add(denied)
    with pytest.raises(InfrastructureError, match=said):
        sdk.upload(source, Claim(tmp_path, server).profile)
    assert not server.objects["pods"]


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (
            "ImagePullBackOff",
            r"files: image a:1 can't be had: ImagePullBackOff: not found; name an image that is there",
        ),
        ("CreateContainerConfigError", r"files: CreateContainerConfigError: not found"),
    ],
)
def test_why_the_pod_does_not_run_is_said(tmp_path, server, source, monkeypatch, reason, says):
    if reason != "ImagePullBackOff":  # that is said at once
        monkeypatch.setattr("orchestrator.clusters.kubernetes.short_pod._PROBLEM_SECONDS", 0.1)
    waiting = {"reason": reason, "message": "not found"}
    server.status_of_new_pods = {
        "phase": "Pending",
        "containerStatuses": [{"name": "files", "image": "a:1", "state": {"waiting": waiting}}],
    }
    with pytest.raises(
        InfrastructureError, match=rf"a pod that mounts the claim data does not run: pod .*{says}"
    ):
        sdk.upload(source, Claim(tmp_path, server).profile)
    assert not server.objects["pods"]


def test_pods_that_were_left_behind_go_with_the_next(tmp_path, server, source):
    left = {
        "metadata": {"name": "left", "labels": {"trainwright/short-pod": "files"}},
        "status": {"phase": "Failed"},
    }
    server.put("pods", left)
    sdk.upload(source, Claim(tmp_path, server).profile)
    assert not server.objects["pods"]


def test_an_image_that_has_no_receiver_is_said(tmp_path, server, source, monkeypatch):
    monkeypatch.setattr(wire, "COMMAND", ("python", "-m", "orchestrator.no_such_part"))
    with pytest.raises(
        InfrastructureError, match=r"what takes the upload in the cluster failed: .*No module named"
    ):
        sdk.upload(source, Claim(tmp_path, server).profile)


def test_a_receiver_whose_sender_dies_keeps_what_came_and_names_nothing(tmp_path):
    here, there = socket.socketpair()
    said = []
    receiving = threading.Thread(target=lambda: wire.serve(there.makefile("rb"), said.append))
    receiving.start()
    here.sendall(
        b'{"place": "%s", "replace": false, "sizes": {"a": 5}}\n{"path": "a", "offset": 0}\nab'
        % bytes(tmp_path / "to")
    )
    here.close()
    receiving.join()
    there.close()
    assert said == [{"held": {}}]
    assert [path.name for path in tmp_path.iterdir()] == [".to.upload"]
    assert (tmp_path / ".to.upload" / "content" / "a").read_bytes() == b"ab"


# -- buckets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with bucket_at(request.param, "uploads-bucket") as uri:
        yield uri


def objects(uri):
    store = store_at(uri)
    return {file.path: store.read(file.path) for file in store.files("")}


def test_a_bucket_holds_all_of_it_and_no_mark(bucket, source):
    profile = ray_profile(storage=f"{bucket}/whole")
    made = sdk.upload(source, profile)
    assert made.path == f"{bucket}/whole/data/my-data"
    assert objects(made.path) == tree(source)
    assert len(list_files(made.path, ())) == 4
    with pytest.raises(SpecError, match="my-data is there already"):
        sdk.upload(source, profile)
    (source / "a.csv").unlink()
    sdk.upload(source, profile, replace=True)
    assert objects(made.path) == tree(source)
    one = sdk.upload(source / "empty.txt", profile, to="one.txt")
    assert store_at(f"{bucket}/whole/data").read("one.txt") == b""
    with pytest.raises(SpecError, match=r"one.txt is there already"):
        sdk.upload(source / "empty.txt", profile, to="one.txt")
    assert one.files == 1


@pytest.mark.parametrize("pattern", ["", "/cats", "/*.csv", "/cats/*.png"])
def test_data_in_a_bucket_is_not_read_before_all_of_it_is_there(bucket, source, pattern):
    profile = ray_profile(storage=f"{bucket}/half")
    there = f"{bucket}/half/data/my-data"

    class CutOff(Exception):
        pass

    def cut(done, total):
        raise CutOff

    with pytest.raises(CutOff):
        sdk.upload(source, profile, on_sent=cut)
    with pytest.raises(DataError, match="an upload to it has not ended, so files are missing"):
        list_files(there + pattern, ())
    sdk.upload(source, profile)
    assert objects(there) == tree(source)
    assert list_files(there + pattern, ())
    store_at(there).remove("")
