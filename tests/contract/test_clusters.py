"""What every remote cluster does alike: the protocol's promises, on real HTTP servers that stand for Ray and Kubernetes."""

from pathlib import Path

import pytest
from cluster_cases import kubernetes_profile, plan, ray_profile
from fake_kubernetes import FakeKubernetes
from fake_ray_jobs import FakeRayJobs

from orchestrator.clusters import open_cluster
from orchestrator.errors import NotFoundError, ResourcesError, SpecError
from orchestrator.runs import EndReason, RunState

RUN = "digits-abcdefgh"


class Ray:
    def __init__(self, folder, monkeypatch):
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        self.server = FakeRayJobs()
        self.storage = folder / "storage"
        self.storage.mkdir()
        groups = [{"name": "cpu", "cpus": 8, "memory": "32GB", "max": 4}]
        self.profile = ray_profile(self.server.url, self.storage, node_groups=groups)

    def runs(self):
        self.server.set_job(RUN, status="RUNNING")

    def ends(self, run_id=RUN):
        self.server.set_job(run_id, status="SUCCEEDED")

    def fails(self, job=RUN):
        self.server.set_job(job, status="FAILED", driver_exit_code=4, message="x")

    def jobs(self):
        return len(self.server.jobs)

    def is_stopped_at_once(self):
        return self.server.jobs[RUN]["status"] == "STOPPED"


class Kubernetes:
    def __init__(self, folder, monkeypatch):
        self.server = FakeKubernetes()
        monkeypatch.setenv("KUBECONFIG", str(self.server.kubeconfig(folder)))
        self.storage = Path("/data")
        self.profile = kubernetes_profile({"storage_claim": "data"}, storage="/data")

    def runs(self):
        self.server.set_status(RUN, jobDeploymentStatus="Running", jobStatus="RUNNING")

    def ends(self, run_id=RUN):
        self.server.set_status(run_id, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")

    def fails(self, job=RUN):
        self.server.set_status(job, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")

    def jobs(self):
        return len(self.server.objects["rayjobs"])

    def is_stopped_at_once(self):
        return self.server.only("rayjobs")["spec"].get("activeDeadlineSeconds") == 1


@pytest.fixture(params=[Ray, Kubernetes], ids=["ray", "kubernetes"])
def place(request, tmp_path, monkeypatch):
    made = request.param(tmp_path, monkeypatch)
    yield made
    made.server.close()


def wanted(place, run_id=RUN, **sections):
    return plan(run_id=run_id, storage=place.storage / "runs" / run_id, **sections)


def submit(place, **options):
    cluster = open_cluster(place.profile)
    return cluster, cluster.submit(cluster.render(wanted(place, **options)))


def test_render_asks_nobody_and_is_always_the_same(place):
    first, second = (open_cluster(place.profile).render(wanted(place)) for _ in range(2))
    assert first == second
    assert first.plan == wanted(place)
    assert place.server.asked == []


def test_a_plan_that_never_fits_is_refused_before_anything_is_sent(place):
    too_many = wanted(place, scaling={"workers": 64}, training={"max_steps": 1, "global_batch_size": 64})
    with pytest.raises(
        ResourcesError, match=r"asked for 64 CPU .* total 32 CPU .* lower scaling\.workers to 32"
    ):
        open_cluster(place.profile).render(too_many)
    assert place.server.asked == []


def test_submitting_again_returns_the_first_s_status(place):
    _, first = submit(place)
    _, second = submit(place)
    assert first == second
    assert (first.state, first.launch, first.cluster, first.name) == (
        RunState.PENDING,
        1,
        place.profile.name,
        "digits",
    )
    assert place.jobs() == 1


def test_nobody_s_run_is_not_found(place):
    cluster = open_cluster(place.profile)
    for verb in (cluster.status, cluster.stop, cluster.resume, lambda run: list(cluster.logs(run))):
        with pytest.raises(NotFoundError, match="nobody"):
            verb("nobody")
    assert cluster.list() == []


def test_a_graceful_stop_does_not_end_it_at_once_and_may_be_asked_for_again(place):
    cluster, _ = submit(place)
    place.runs()
    for _ in range(2):
        assert cluster.stop(RUN).state is RunState.STOPPING
    assert not place.is_stopped_at_once()
    cluster.stop(RUN, now=True)
    assert place.is_stopped_at_once()


def test_a_stop_in_time_keeps_it_from_starting(place):
    cluster, _ = submit(place)
    cluster.stop(RUN)
    assert place.is_stopped_at_once()


def test_an_end_is_final(place):
    cluster, _ = submit(place)
    place.ends()
    status = cluster.status(RUN)
    assert (status.state, status.reason) == (RunState.SUCCEEDED, EndReason.COMPLETED)
    assert cluster.stop(RUN, now=True).state is RunState.SUCCEEDED
    assert not place.is_stopped_at_once()
    with pytest.raises(SpecError, match="nothing is left to resume"):
        cluster.resume(RUN)


def test_resume_only_what_has_ended_and_each_launch_once(place):
    cluster, _ = submit(place)
    place.runs()
    with pytest.raises(SpecError, match="stop it first, or wait"):
        cluster.resume(RUN)
    place.fails()
    assert cluster.resume(RUN).launch == 2
    assert [status.launch for status in cluster.list()] == [2]
    assert cluster.status(RUN).launch == 2


def test_a_run_goes_on_with_another_plan_and_keeps_it(place):
    """What the second launch was given is what the third starts from."""
    cluster, _ = submit(place)
    place.fails()
    workers = []

    def one_more(plan):
        workers.append(plan.job.scaling.workers)
        scaling = plan.job.scaling.model_copy(update={"workers": workers[-1] + 1})
        job = plan.job.model_copy(update={"scaling": scaling})
        return plan.model_copy(update={"job": job, "world_size": scaling.workers})

    for launch in (2, 3):
        assert cluster.resume(RUN, one_more).launch == launch
        place.fails(f"{RUN}-{launch}")
    assert workers[1] == workers[0] + 1


def test_ping_is_one_line(place):
    assert "\n" not in open_cluster(place.profile).ping()
