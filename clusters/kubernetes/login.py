"""Which API server to talk to, and as whom: a kubeconfig's context, or the pod that this runs in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.spec.profile import ClusterProfile


def connect(profile: ClusterProfile) -> Any:
    """A client for the profile's context. Connects to nothing yet. Raises SpecError where there is no such context."""
    from kubernetes import client, config

    configuration = client.Configuration()
    context = profile.kubernetes.context
    # asked for now: the client's own default is the one of the moment when it was imported
    file = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    try:
        if context is None:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                config.load_kube_config(file, client_configuration=configuration)
        else:
            config.load_kube_config(file, context=context, client_configuration=configuration)
    except config.ConfigException as error:
        known = ""
        with contextlib.suppress(config.ConfigException, TypeError):
            known = ", ".join(entry["name"] for entry in config.list_kube_config_contexts(file)[0])
        has = f"; the kubeconfig has {known}" if known else "; there is no kubeconfig"
        raise SpecError(
            f"cluster {profile.name}: kubernetes.context {context or '(none)'} can't be used: {str(error).strip()[:200]}{has}"
        ) from None
    configuration.retries = False  # what is tried again is said in one place
    return client.ApiClient(configuration)


def credentials(client: Any) -> object:
    """What a client signs in with now, to compare."""
    configuration = client.configuration
    return dict(configuration.api_key), configuration.cert_file


def log_in_again(profile: ClusterProfile, client: Any, sent: object) -> bool:
    """Whether there are other credentials than those that were refused, once they are read anew; then a client, and its copies,
    have them. Kubernetes' client asks a command for the next token only where the last one said when it ends.
    """
    try:
        fresh = connect(profile)
    except SpecError:
        return False
    if credentials(fresh) == sent:
        return False
    vars(client.configuration).update(vars(fresh.configuration))
    vars(client.rest_client).update(vars(fresh.rest_client))
    return True
