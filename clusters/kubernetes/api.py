"""One API server, by the official client: time limits, retries after the table in ``patience``, and one-sentence errors that
name the verb, the resource and the namespace.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from typing import Any

from orchestrator.clusters.kubernetes.errors import GoneError, QuotaNotCountedError, refusal
from orchestrator.clusters.kubernetes.login import connect, credentials, log_in_again
from orchestrator.clusters.shared.connection import connection_problem
from orchestrator.clusters.shared.patience import Patience, retry_after_seconds, worth_another_try
from orchestrator.errors import InfrastructureError
from orchestrator.spec.profile import ClusterProfile

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
_PAGE = 200
_TRIES_IN_SILENCE = 3
_REFUSED_TRIES = 12
"""How often who follows a run, and was answered before, is refused: an API server that has just started knows nobody's rights for
some seconds."""


class ApiServer:
    """One API server, asked for one namespace. Connects on the first call.

    ``call``, ``pages`` and ``answer``, and so whatever asks by them, may raise InfrastructureError (no answer; not logged in; no
    right: verb, resource and namespace are named; KubeRay is not installed), NotFoundError, SpecError (the server finds the object
    wrong) and ResourcesError (a quota).

    Args:
        profile: Of kind kubernetes.
        patience, read_seconds, quota_seconds, outage_seconds: For tests.
    """

    def __init__(
        self,
        profile: ClusterProfile,
        patience: Patience | None = None,
        read_seconds: float = 30.0,
        quota_seconds: float = 360.0,
        outage_seconds: float = 900.0,
    ) -> None:
        self.profile = profile
        self._timeout_seconds = (CONNECT_SECONDS, read_seconds)
        self.namespace = profile.kubernetes.namespace
        self._client: Any = None
        self._patience = patience or Patience()
        self._quota_seconds = quota_seconds
        self._outage_seconds = outage_seconds
        self._is_following, self._was_answered = False, False

    def following(self) -> ApiServer:
        """The same for who follows a run, which needs no API server to train: waits a quarter of an hour for one that is away
        (a control plane that is upgraded takes minutes), and says so.
        """
        made = copy.copy(self)
        made._patience = self._patience.for_at_least(self._outage_seconds)
        made._is_following = True
        return made

    def pause(self) -> None:
        """A moment, for a caller that asks again."""
        self._patience.pause()

    def custom(self, *, merges: bool = False) -> Any:
        """The client's calls for RayJobs and what else is no part of Kubernetes itself; ``merges`` as in ``client``."""
        from kubernetes import client

        return client.CustomObjectsApi(self.client(merges=merges))

    def core(self, *, merges: bool = False) -> Any:
        """The client's calls for pods, ConfigMaps and the like; ``merges`` as in ``client``."""
        from kubernetes import client

        return client.CoreV1Api(self.client(merges=merges))

    def client(self, *, merges: bool = False) -> Any:
        """The connection; one that ``merges`` says of each body that it is a merge patch, for which calls have no argument."""
        if self._client is None:
            self._client = connect(self.profile)
        if not merges:
            return self._client
        client = copy.copy(self._client)
        client.default_headers = {**client.default_headers, "Content-Type": "application/merge-patch+json"}
        return client

    def pages(
        self, resource: str, function: Callable[..., Any], *where: str, **options: Any
    ) -> list[dict[str, Any]]:
        """All items of a list; once more from its start where a page's place is gone (410)."""
        try:
            return self._page_by_page(resource, function, *where, **options)
        except GoneError:
            return self._page_by_page(resource, function, *where, **options)

    def _page_by_page(
        self, resource: str, function: Callable[..., Any], *where: str, **options: Any
    ) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            page = self.call("list", resource, function, *where, limit=_PAGE, **options, **more)
            items += page.get("items") or []
            if not (place := (page.get("metadata") or {}).get("continue")):
                return items
            more = {"_continue": place}

    def call(
        self, verb: str, resource: str, function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        """The JSON object that the server answers, once it has counted what a quota limits: of a kind that is new to it, only
        at the controller manager's next look, up to five minutes later.
        """
        is_told = False
        for attempt in self._patience.for_seconds(self._quota_seconds).tries():
            try:
                answer = self.answer(verb, resource, function, *arguments, read_body=True, **options)
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

    def answer(
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
        refused, sent = 0, credentials(self.client())
        for number, attempt in enumerate(self._patience.tries(), start=1):
            response, status, text, headers = _asked(function, *arguments, read_body=read_body, **options)
            if status == 401 and log_in_again(self.profile, self.client(), sent):
                sent = credentials(self.client())
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
