"""The few calls to a Kubernetes API server that runs need, by the official client: time limits, retries after the
table in ``patience``, and one-sentence errors that name the verb, the resource and the namespace.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from orchestrator.clusters.kubernetes.errors import GoneError, QuotaNotCountedError, UnknownUserError, refusal
from orchestrator.clusters.kubernetes.login import connect, credentials, log_in_again
from orchestrator.clusters.kubernetes.pod_command import PodCommand
from orchestrator.clusters.kubernetes.pod_tunnel import PodTunnel
from orchestrator.clusters.shared.connection import connection_problem
from orchestrator.clusters.shared.moment import Moment
from orchestrator.clusters.shared.patience import Patience, retry_after_seconds, worth_another_try
from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.spec.profile import ClusterProfile

log = logging.getLogger(__name__)

GROUP, VERSION = "ray.io", "v1"
_CONNECT_SECONDS = 5.0
_PAGE = 200
_WATCH_SECONDS = 30
_IDLE_LOG_SECONDS = 15.0
_OVERLAP_SECONDS = 30
"""A log that is taken up again is read from so long before: its clock is not ours."""
_TRIES_IN_SILENCE = 3
_REFUSED_TRIES = 12
"""How often who follows a run, and was answered before, is refused: an API server that has just started knows nobody's rights for
some seconds."""


class KubernetesApi:
    """One namespace of one API server. Connects on the first call.

    Every method may raise InfrastructureError (no answer; not logged in; no right: verb, resource and namespace are
    named; KubeRay is not installed), NotFoundError, SpecError (the server finds the object wrong) and ResourcesError
    (a quota).

    Args:
        profile: Of kind kubernetes.
        client: An ``kubernetes.client.ApiClient``; default: made from the profile's context, or in-cluster.
        patience, read_seconds, quota_seconds, outage_seconds: For tests.
    """

    def __init__(
        self,
        profile: ClusterProfile,
        client: Any = None,
        patience: Patience | None = None,
        read_seconds: float = 30.0,
        quota_seconds: float = 360.0,
        outage_seconds: float = 900.0,
    ) -> None:
        self.profile = profile
        self._timeout_seconds = (_CONNECT_SECONDS, read_seconds)
        self.namespace = profile.kubernetes.namespace
        self._api_client = client
        self._patience = patience or Patience()
        self._quota_seconds = quota_seconds
        self._outage_seconds = outage_seconds
        self._is_following, self._was_answered = False, False

    def following(self) -> KubernetesApi:
        """The same for who follows a run, which needs no API server to train: waits a quarter of an hour for one that is away
        (a control plane that is upgraded takes minutes), and says so.
        """
        made = copy.copy(self)
        made._patience = self._patience.for_at_least(self._outage_seconds)
        made._is_following = True
        return made

    # -- RayJobs -----------------------------------------------------------------------------------------------

    def create_rayjob(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create it, or only let the server check it. Fields that the server's CRD doesn't know are refused."""
        more = {"dry_run": "All"} if dry_run else {}
        return self._call(
            "create",
            "rayjobs.ray.io",
            self._custom().create_namespaced_custom_object,
            *self._rayjobs(),
            body,
            field_validation="Strict",
            **more,
        )

    def rayjob(self, name: str) -> dict[str, Any]:
        """One RayJob."""
        return self._call(
            "get", "rayjobs.ray.io", self._custom().get_namespaced_custom_object, *self._rayjobs(), name
        )

    def rayjobs(self, selector: str) -> list[dict[str, Any]]:
        """All RayJobs with some labels."""
        return self._pages(
            "rayjobs.ray.io",
            self._custom().list_namespaced_custom_object,
            *self._rayjobs(),
            label_selector=selector,
        )

    def patch_rayjob(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge a patch into it."""
        return self._call(
            "patch",
            "rayjobs.ray.io",
            self._custom(merges=True).patch_namespaced_custom_object,
            *self._rayjobs(),
            name,
            patch,
        )

    def delete_rayjob(self, name: str) -> None:
        """Remove it with all that it owns; no matter if it is gone already."""
        try:
            self._call(
                "delete",
                "rayjobs.ray.io",
                self._custom().delete_namespaced_custom_object,
                *self._rayjobs(),
                name,
                body={"propagationPolicy": "Background"},
            )
        except NotFoundError:
            return

    def watch_rayjob(self, name: str) -> Iterator[dict[str, Any]]:
        """The RayJob as it is now and after each change, until the caller has seen enough or it is deleted.

        A watch that the server ends, or whose place in history is gone (410), begins again from a fresh read.
        """
        from kubernetes import watch
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        while True:
            rayjob = self.rayjob(name)
            yield rayjob
            stream = watch.Watch()
            try:
                for event in stream.stream(
                    self._custom().list_namespaced_custom_object,
                    *self._rayjobs(),
                    field_selector=f"metadata.name={name}",
                    resource_version=rayjob["metadata"].get("resourceVersion"),
                    timeout_seconds=_WATCH_SECONDS,
                    _request_timeout=(_CONNECT_SECONDS, _WATCH_SECONDS + 5.0),
                ):
                    if event["type"] == "DELETED":
                        return
                    yield event["object"]
            except ApiException as error:
                if error.status == 403:
                    raise refusal(
                        self.profile, "watch", "rayjobs.ray.io", error.status, str(error.body or "")
                    ) from None
                self._patience.pause()
            except (HTTPError, ValueError, KeyError):
                self._patience.pause()
            finally:
                stream.stop()

    # -- what belongs to them ----------------------------------------------------------------------------------

    def ray_cluster(self, name: str) -> dict[str, Any]:
        """One RayCluster."""
        return self._call(
            "get",
            "rayclusters.ray.io",
            self._custom().get_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            "rayclusters",
            name,
        )

    def workloads(self, job_uid: str) -> list[dict[str, Any]]:
        """Kueue's workloads of a job, from whichever version of its API the server has."""
        for version in ("v1beta2", "v1beta1"):
            try:
                return self._pages(
                    "workloads.kueue.x-k8s.io",
                    self._custom().list_namespaced_custom_object,
                    "kueue.x-k8s.io",
                    version,
                    self.namespace,
                    "workloads",
                    label_selector=f"kueue.x-k8s.io/job-uid={job_uid}",
                )
            except NotFoundError:
                continue
        return []

    def create_config_map(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create it, or only let the server check it."""
        more = {"dry_run": "All"} if dry_run else {}
        return self._call(
            "create", "configmaps", self._core().create_namespaced_config_map, self.namespace, body, **more
        )

    def config_map(self, name: str) -> dict[str, Any]:
        """One ConfigMap."""
        return self._call("get", "configmaps", self._core().read_namespaced_config_map, name, self.namespace)

    def patch_config_map(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge a patch into it."""
        return self._call(
            "patch",
            "configmaps",
            self._core(merges=True).patch_namespaced_config_map,
            name,
            self.namespace,
            patch,
        )

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """All pods with some labels."""
        return self._pages("pods", self._core().list_namespaced_pod, self.namespace, label_selector=selector)

    def create_pod(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create it."""
        return self._call("create", "pods", self._core().create_namespaced_pod, self.namespace, body)

    def pod(self, name: str) -> dict[str, Any]:
        """One pod."""
        return self._call("get", "pods", self._core().read_namespaced_pod, name, self.namespace)

    def delete_pod(self, name: str) -> None:
        """Remove it; no matter if it is gone already."""
        try:
            self._call("delete", "pods", self._core().delete_namespaced_pod, name, self.namespace)
        except NotFoundError:
            return

    def run_in_pod(
        self, pod: str, command: Sequence[str], on_close: Callable[[], None] = lambda: None
    ) -> PodCommand:
        """Start a command in a pod's only container, with its input and output at hand."""
        # of its own: the client's way to a stream puts another call in the place of the one that all threads share
        return PodCommand(self.profile, connect(self.profile), pod, command, on_close)

    def connect_to_pod(self, pod: str, port: int) -> PodTunnel:
        """A connection to a port of a pod."""
        sent = credentials(self._client())
        try:
            return PodTunnel(self.profile, self._client(), pod, port)
        except UnknownUserError:
            if not log_in_again(self.profile, self._client(), sent):
                raise
            return PodTunnel(self.profile, self._client(), pod, port)

    def service(self, name: str) -> dict[str, Any]:
        """One Service."""
        return self._call("get", "services", self._core().read_namespaced_service, name, self.namespace)

    def secret(self, name: str) -> dict[str, Any]:
        """One Secret."""
        return self._call("get", "secrets", self._core().read_namespaced_secret, name, self.namespace)

    def pod_log(
        self,
        pod: str,
        container: str,
        *,
        follow: bool,
        tail_lines: int | None = None,
        since: Moment | None = None,
    ) -> Iterator[str]:
        """Pieces of a container's output, each line behind its time stamp. With ``follow`` until the container or
        the connection ends, or nothing came for a quarter of a minute. With ``since`` only lines that came later, and
        those of half a minute before.
        """
        from urllib3.exceptions import HTTPError

        def read(*arguments: Any, **options: Any) -> Any:
            # counted anew for each try: minutes may pass between two of them
            if since is not None:
                options["since_seconds"] = round(since.seconds_ago()) + _OVERLAP_SECONDS
            return self._core().read_namespaced_pod_log(*arguments, **options)

        more: dict[str, Any] = {} if tail_lines is None else {"tail_lines": tail_lines}
        response = self._answer(
            "get",
            "pods/log",
            read,
            pod,
            self.namespace,
            container=container,
            follow=follow,
            timestamps=True,
            _request_timeout=(_CONNECT_SECONDS, _IDLE_LOG_SECONDS) if follow else self._timeout_seconds,
            **more,
        )
        try:
            for piece in response.stream(decode_content=True):
                yield piece.decode(errors="replace")
        except HTTPError:
            return
        finally:
            response.close()

    def pause(self) -> None:
        """A moment, for a caller that asks again."""
        self._patience.pause()

    # -- what doctor asks --------------------------------------------------------------------------------------

    def version(self) -> str:
        """The server's version."""
        from kubernetes import client

        return str(
            self._call("get", "version", client.VersionApi(self._client()).get_code).get("gitVersion", "")
        )

    def clock_ahead_seconds(self) -> float:
        """How far the server's clock is ahead of ours, to the second that HTTP tells."""
        from kubernetes import client

        began = time.time()
        answer = self._answer("get", "version", client.VersionApi(self._client()).get_code, read_body=True)
        there = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        return there - (began + time.time()) / 2

    def storage_claim_phase(self, name: str) -> str:
        """Phase of a PersistentVolumeClaim, e.g. ``Bound``."""
        read = self._core().read_namespaced_persistent_volume_claim
        claim = self._call("get", "persistentvolumeclaims", read, name, self.namespace)
        return str((claim.get("status") or {}).get("phase") or "Unknown")

    def storage_claim_warning(self, name: str) -> str:
        """What Kubernetes said last of why a PersistentVolumeClaim can't be bound; empty where it said nothing."""
        events = self._pages("events", self._core().list_namespaced_event, self.namespace)
        said = [
            event
            for event in events
            if (event.get("type"), (event.get("involvedObject") or {}).get("kind"))
            == ("Warning", "PersistentVolumeClaim")
            and event["involvedObject"].get("name") == name
        ]
        newest = max(said, key=lambda event: event.get("lastTimestamp") or "", default={})
        return str(newest.get("message") or "").strip()

    def rayjob_crd_is_served(self) -> bool:
        """Whether the server knows RayJobs in our version."""
        try:
            answer = self._call(
                "get", "API group ray.io/v1", self._custom().get_api_resources, GROUP, VERSION
            )
        except NotFoundError:
            return False
        return any(resource.get("name") == "rayjobs" for resource in answer.get("resources") or [])

    def may(self, verb: str, resource: str, group: str = "") -> bool:
        """Whether we may do something in the namespace."""
        from kubernetes import client

        name, _, sub = resource.partition("/")
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": name,
            "subresource": sub,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        api = client.AuthorizationV1Api(self._client())
        answer = self._call("create", "selfsubjectaccessreviews", api.create_self_subject_access_review, body)
        return bool((answer.get("status") or {}).get("allowed"))

    # -- the wire ----------------------------------------------------------------------------------------------

    def _rayjobs(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, "rayjobs"

    def _custom(self, *, merges: bool = False) -> Any:
        from kubernetes import client

        return client.CustomObjectsApi(self._client(merges=merges))

    def _core(self, *, merges: bool = False) -> Any:
        from kubernetes import client

        return client.CoreV1Api(self._client(merges=merges))

    def _client(self, *, merges: bool = False) -> Any:
        """The connection; one that ``merges`` says of each body that it is a merge patch, for which calls have no argument."""
        if self._api_client is None:
            self._api_client = connect(self.profile)
        if not merges:
            return self._api_client
        client = copy.copy(self._api_client)
        client.default_headers = {**client.default_headers, "Content-Type": "application/merge-patch+json"}
        return client

    def _pages(
        self, resource: str, function: Callable[..., Any], *where: str, **options: Any
    ) -> list[dict[str, Any]]:
        """All items of a list, page by page; once more from its start where a page's place is gone (410)."""
        for is_last_try in (False, True):
            items: list[dict[str, Any]] = []
            place = ""
            try:
                while True:
                    more = {"_continue": place} if place else {}
                    page = self._call("list", resource, function, *where, limit=_PAGE, **options, **more)
                    items += page.get("items") or []
                    place = (page.get("metadata") or {}).get("continue") or ""
                    if not place:
                        return items
            except GoneError:
                if is_last_try:
                    raise
        raise AssertionError("unreachable")

    def _call(
        self, verb: str, resource: str, function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        """The JSON object that the server answers, once it has counted what a quota limits: of a kind that is new to it, only
        at the controller manager's next look, up to five minutes later.
        """
        is_told = False
        for attempt in self._patience.for_seconds(self._quota_seconds).tries():
            try:
                answer = self._answer(verb, resource, function, *arguments, read_body=True, **options)
                break
            except QuotaNotCountedError as error:
                if attempt.is_last:
                    raise
                if not is_told:
                    log.warning(
                        "%s; waiting for it, up to %d minutes", error, round(self._quota_seconds / 60)
                    )
                is_told = True
        try:
            value = json.loads(answer.data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            what = "a web page" if b"<html" in answer.data[:500].lower() else "something"
            raise InfrastructureError(
                f"cluster {self.profile.name}: the API server's address answers with {what} that is no JSON object;"
                " check the kubeconfig's server, and for a proxy or login page in front of it"
            )
        return value

    def _answer(
        self,
        verb: str,
        resource: str,
        function: Callable[..., Any],
        *arguments: Any,
        read_body: bool = False,
        _request_timeout: Any = None,
        **options: Any,
    ) -> Any:
        """An answer with a good status, after the retries that the table allows."""
        options["_request_timeout"] = _request_timeout or self._timeout_seconds
        refused, sent = 0, credentials(self._client())
        for number, attempt in enumerate(self._patience.tries(), start=1):
            response, status, text, headers = _asked(function, *arguments, read_body=read_body, **options)
            if status == 401 and log_in_again(self.profile, self._client(), sent):
                sent = credentials(self._client())
                response, status, text, headers = _asked(function, *arguments, read_body=read_body, **options)
            if response is not None:
                if self._is_following and number > _TRIES_IN_SILENCE:
                    log.warning("cluster %s: the API server answers again", self.profile.name)
                self._was_answered = True
                return response
            refused += status in (401, 403)
            is_new_there = self._is_following and self._was_answered and 0 < refused <= _REFUSED_TRIES
            is_worth_it = is_new_there or worth_another_try(status, is_read=verb in ("get", "list"))
            if not is_worth_it or attempt.is_last:
                break
            attempt.retry_after_seconds = retry_after_seconds(headers.get("Retry-After"))
            if self._is_following and number == _TRIES_IN_SILENCE:
                log.warning(
                    "cluster %s: the API server does not answer (%s); the run goes on without it, and its output follows when it"
                    " is back; waiting for it, up to %d minutes",
                    self.profile.name,
                    text if status == 0 else f"HTTP {status}",
                    round(self._patience.patience_seconds / 60),
                )
        raise refusal(self.profile, verb, resource, status, text)


def _asked(
    function: Callable[..., Any], *arguments: Any, read_body: bool, **options: Any
) -> tuple[Any, int, str, Any]:
    """A good answer, or None; its status (0: there was none), what it says, and its headers."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        response = function(*arguments, **options, _preload_content=False)
        if response.status >= 300:
            return None, response.status, response.data.decode(errors="replace"), response.headers
        if read_body:
            _ = response.data  # a body that does not come is no answer
        return response, response.status, "", response.headers
    except ApiException as error:
        said = error.body or error.reason or ""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        return None, error.status or 0, text, error.headers or {}
    except HTTPError as error:
        return None, 0, connection_problem(error), {}
