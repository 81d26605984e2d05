"""ClusterProfile: what a cluster is, as a platform engineer writes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.section import Bytes, PathText, Seconds, Section, Written
from orchestrator.spec.addresses import OpenAddress, OpenText, StoreAddress
from orchestrator.spec.reserved import refuse_reserved
from orchestrator.storage import is_uri

Name = Annotated[
    str,
    Written(
        r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "small letters, digits and hyphens, at most 63, with no hyphen first or last",
    ),
]


class Toleration(Section):
    """A Kubernetes toleration, field for field."""

    key: str | None = None
    """The taint's key. Default: every key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """How the value is compared."""
    value: str | None = None
    """The taint's value, with operator ``Equal``."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Default: every effect."""


_OUR_LABELS = ("app.kubernetes.io/", "kueue.x-k8s.io/", "ray.io/", "trainwright/", "yunikorn.apache.org/")
_OUR_FOLDERS = ("/tmp", "/dev/shm", "/etc/trainwright", "/opt/trainwright")


def _refuse_our_labels(where: str, labels: dict[str, str]) -> None:
    """Raises ValueError where a pod would be given a label that says which run, queue or cluster it belongs to."""
    for label in labels:
        if label.startswith(_OUR_LABELS):
            raise ValueError(
                f"{where}: pod_labels.{label} is set by trainwright, KubeRay or a queue; take it out"
            )


class NodeGroup(Section):
    """Nodes of one kind: on Kubernetes a worker group, elsewhere what is known of the machines."""

    name: Name
    """The group's name."""
    cpus: float = Field(gt=0)
    """CPU cores of one node that jobs can use."""
    memory: Bytes
    """Memory of one node that jobs can use."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of one node."""
    accelerator_type: str | None = None
    """What the GPUs are, as Ray names them, e.g. ``H100``. Default: not said."""
    accelerator_memory: Bytes | None = None
    """Memory of one GPU. Default: what ``accelerator_type`` is known to have."""
    min: int = Field(default=0, ge=0)
    """Nodes that are always there."""
    max: int = Field(default=1, ge=1)
    """Nodes at most."""
    spot: bool = False
    """Whether the nodes can be taken away at short notice."""
    labels: dict[str, str] = {}
    """Node labels to select (Kubernetes nodeSelector) and to give the Ray node."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the pods of the group tolerate."""
    annotations: dict[str, str] = {}
    """Annotations of the group's pods (kind kubernetes)."""
    pod_labels: dict[str, str] = {}
    """Further labels of the group's pods, e.g. of a webhook or a network policy (kind kubernetes)."""
    environment: dict[str, OpenText] = {}
    """Environment variables of the group's pods, e.g. of their network; the profile's and the job's go before them (kind
    kubernetes). No secrets here."""
    resources: dict[str, int] = {}
    """What a pod of the group takes besides, by Kubernetes' names, e.g. ``vpc.amazonaws.com/efa`` or ``rdma/ib`` (kind
    kubernetes)."""
    shared_memory: Bytes | None = None
    """Size of ``/dev/shm``. Default: three tenths of the memory."""

    @model_validator(mode="after")
    def _max_is_more(self) -> NodeGroup:
        if self.min > self.max:
            raise ValueError(f"node_groups {self.name}: min {self.min} is more than max {self.max}")
        for taken in self.resources:
            if taken in ("cpu", "memory", "nvidia.com/gpu"):
                raise ValueError(f"node_groups {self.name}: resources.{taken} has a field of its own")
        _refuse_our_labels(f"node_groups {self.name}", self.pod_labels)
        refuse_reserved(f"node_groups {self.name}: environment", self.environment, of_nodes=True)
        return self


class HeadNode(Section):
    """The pod or machine where Ray's head and the driver run."""

    cpus: float = Field(default=2, gt=0)
    """CPU cores."""
    memory: Bytes = 8 * 10**9
    """Memory."""
    offered_cpus: int = Field(default=0, ge=0)
    """CPU cores of the head that Ray gives to workers and read tasks (kind kubernetes). None by default: the driver and Ray's
    control would have to share theirs with whatever finds no place elsewhere."""
    labels: dict[str, str] = {}
    """Node labels to select (kind kubernetes)."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the head pod tolerates (kind kubernetes)."""
    annotations: dict[str, str] = {}
    """Annotations of the head pod (kind kubernetes)."""
    pod_labels: dict[str, str] = {}
    """Further labels of the head pod (kind kubernetes)."""

    @model_validator(mode="after")
    def _offers_what_it_has(self) -> HeadNode:
        if self.offered_cpus > self.cpus:
            raise ValueError(f"head: offered_cpus {self.offered_cpus} is more than its cpus {self.cpus:g}")
        _refuse_our_labels("head", self.pod_labels)
        return self


class SecretRefs(Section):
    """Where secrets are, never what they are."""

    ray_token_file: PathText | None = None
    """Client side: file (mode 0600) that holds Ray's bearer token. Default: Ray's own lookup."""
    ray_token_secret: str | None = None
    """Kubernetes Secret with key ``auth_token``. Default: the operator makes one for each cluster."""
    mlflow_secret: str | None = None
    """Kubernetes Secret with keys ``username`` and ``password`` for the MLflow server."""
    storage_secret: str | None = None
    """Kubernetes Secret whose keys become the storage credentials' environment."""
    image_pull_secrets: tuple[str, ...] = ()
    """Kubernetes Secrets to pull the image with."""


class MountedClaim(Section):
    """A PersistentVolumeClaim that is there, with data sets for one, and where the head and all workers see it."""

    claim: Name
    """The claim's name."""
    path: PathText
    """Folder of the pods where it is mounted."""
    read_only: bool = True
    """Whether jobs only read it."""


def _refuse_overlaps(claims: tuple[MountedClaim, ...], taken: tuple[str, ...]) -> None:
    """Raises ValueError where one would be mounted inside another, or over what pods have already."""
    folders = list(taken)
    for mounted in claims:
        path = mounted.path.rstrip("/")
        if not path.startswith("/"):
            raise ValueError(
                f"kubernetes.claims {mounted.claim}: path {mounted.path} must be a whole path below /"
            )
        for other in folders:
            if f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/"):
                raise ValueError(
                    f"kubernetes.claims {mounted.claim}: path {mounted.path} and {other}, which pods have already, lie in each"
                    " other; give another path"
                )
        folders.append(path)


class Packages(Section):
    """What pods install on a volume, once, where the image is Ray's own and has no trainwright."""

    config_maps: tuple[Name, ...] = Field(min_length=1)
    """ConfigMaps that hold ``install_packages.py``, ``requirements.txt``, ``pip.conf`` and, if wanted, wheels."""
    key: Name
    """Folder of this installation on the volume: another for other contents."""
    claim: Name | None = None
    """PersistentVolumeClaim that keeps it for all pods. Default: each pod installs for itself."""


class KubernetesOptions(Section):
    """What only a Kubernetes profile says."""

    context: str | None = None
    """Context of the kubeconfig. Default: in-cluster credentials if there, else the current context."""
    namespace: Name = "default"
    """Namespace that the RayJobs go to."""
    service_account: str | None = None
    """ServiceAccount that the job's pods run as. Default: the namespace's default."""
    queue: str | None = None
    """Kueue LocalQueue. Default: no queue, the job starts at once."""
    gang_scheduler: Literal["none", "volcano", "yunikorn", "kai-scheduler"] = "none"
    """Scheduler that places all pods of a job together or none."""
    priority_class: str | None = None
    """PriorityClass of the job's pods."""
    storage_claim: str | None = None
    """PersistentVolumeClaim that is mounted at ``storage``, where that is a path."""
    claims: tuple[MountedClaim, ...] = ()
    """Further claims that the pods of a job mount, e.g. with data sets."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    packages: Packages | None = None
    """What pods install before they start. Default: the image has all."""
    user: int = Field(default=10001, ge=1)
    """User that all containers run as; any but root does in our own images."""
    group: int = Field(default=10001, ge=1)
    """Their group, and that of the volumes."""
    autoscaling: bool = False
    """Let Ray's autoscaler add and remove nodes of the groups between ``min`` and ``max``."""
    gcs_fault_tolerance: Literal["none", "redis", "rocksdb"] = "none"
    """Where Ray's control state is kept, so that a lost head does not lose the job."""
    redis_address: str | None = None
    """Address of the Redis server, with ``gcs_fault_tolerance: redis``."""
    cluster_retries: int = Field(default=0, ge=0, le=3)
    """New Ray clusters that KubeRay may start after one whose job failed, whatever it failed of: a wrong job costs
    each of them too before its end is told. Lost workers are restarted inside the cluster (``recovery.max_failures``
    of the job) and don't count, nor does a lost head."""
    active_deadline: Seconds | None = None
    """Longest life of one RayJob. Default: no limit."""
    start_deadline: Seconds = 1800
    """Longest time that a RayJob may wait for its pods to run."""
    keep_head: Seconds = 3600
    """How long the head pod stays after the end, for logs and the dashboard."""
    keep_job: Seconds = 7 * 86400
    """How long the RayJob object stays after the end."""
    labels: dict[str, str] = {}
    """Labels put on all that is created."""
    annotations: dict[str, str] = {}
    """Annotations put on the RayJob."""


class ClusterProfile(Section):
    """A place where jobs run."""

    name: Name
    """The name that ``--cluster`` takes."""
    kind: Literal["local", "ray", "kubernetes"]
    """``local``: this machine; ``ray``: a running Ray cluster's Jobs API; ``kubernetes``: KubeRay RayJobs."""
    address: str | None = None
    """Ray dashboard's URL, e.g. ``http://head:8265`` (kind ray)."""
    image: str | None = None
    """Container image with this version of trainwright (kind kubernetes); a tag or digest, never latest."""
    ray_version: str | None = None
    """Ray's version on the cluster. Default: that of this installation."""
    storage: PathText | None = None
    """Where checkpoints and run records go: a path that all nodes share, or ``s3://`` or ``gs://``.
    Kind local takes a path only; its default is the trainwright home."""
    notice_file: PathText | None = None
    """A file on each node that somebody writes where the node will be taken away, as an agent that hears of spot
    interruptions can: see ``recovery.on_notice`` of the job. Default: none is looked for."""
    mlflow: StoreAddress = None
    """MLflow tracking URI, without a password. Default: ``MLFLOW_TRACKING_URI``, else (kind local) an SQLite file in the home."""
    mlflow_ui: OpenAddress = None
    """Where people open MLflow, if that is not where runs reach it: the address of an ingress, e.g. ``https://mlflow.example.com``.
    Default: ``mlflow``; where only pods reach that, ``trainwright ui`` forwards it."""
    secrets: SecretRefs = SecretRefs()
    """References to secrets."""
    head: HeadNode = HeadNode()
    """The head node."""
    node_groups: tuple[NodeGroup, ...] = ()
    """Kinds of nodes. Default (kind local): this machine."""
    kubernetes: KubernetesOptions = KubernetesOptions()
    """What only kind kubernetes uses."""
    environment: dict[str, OpenText] = {}
    """Environment variables of every process of a job. No secrets here."""

    @model_validator(mode="after")
    def _complete_for_its_kind(self) -> ClusterProfile:
        if self.kind == "ray" and not (self.address or "").startswith(("http://", "https://")):
            raise ValueError("address: kind ray needs the dashboard's URL, e.g. http://head:8265")
        if self.mlflow_ui and not self.mlflow_ui.startswith(("http://", "https://")):
            raise ValueError(
                f"mlflow_ui: {self.mlflow_ui} must be an address that a browser opens, https://HOST"
            )
        refuse_reserved("environment", self.environment)
        if self.notice_file and not self.notice_file.startswith("/"):
            raise ValueError(f"notice_file: {self.notice_file} must be a whole path, the same on each node")
        if self.kind != "local" and not self.storage:
            raise ValueError(
                f"storage: kind {self.kind} needs a path that all nodes share, or s3:// or gs://"
            )
        if self.kind == "local" and is_uri(self.storage or ""):
            raise ValueError(
                "storage: kind local keeps its runs in a folder of this machine, so give a path; data may lie anywhere"
            )
        if len({group.name for group in self.node_groups}) < len(self.node_groups):
            raise ValueError("node_groups: two groups have the same name")
        if self.kind != "kubernetes":
            return self
        if not self.image:
            raise ValueError("image: kind kubernetes needs an image with this version of trainwright")
        tag = self.image.rpartition("/")[2]
        if not (":" in tag or "@" in tag) or tag.endswith(":latest"):
            raise ValueError(f"image: {self.image} must end with a tag other than latest, or a digest")
        if not self.node_groups:
            raise ValueError("node_groups: kind kubernetes needs at least one")
        if (self.kubernetes.gcs_fault_tolerance == "redis") != bool(self.kubernetes.redis_address):
            raise ValueError(
                "kubernetes.redis_address is needed with gcs_fault_tolerance redis, and only then"
            )
        if not is_uri(str(self.storage)) and not self.kubernetes.storage_claim:
            raise ValueError("kubernetes.storage_claim is needed where storage is a path")
        storage = () if is_uri(str(self.storage)) else (str(self.storage).rstrip("/"),)
        _refuse_overlaps(self.kubernetes.claims, (*storage, *_OUR_FOLDERS))
        if self.kubernetes.queue and self.kubernetes.autoscaling:
            raise ValueError(
                "kubernetes.autoscaling: a Kueue queue admits a fixed number of pods; turn one of them off"
            )
        return self
