"""Addresses as people write them: passwords are told from the rest, so that none is printed, stored or logged."""

from __future__ import annotations

import os
import re
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pydantic import AfterValidator

_SECRET_WORDS = re.compile(r"passw|secret|token|api_?key|^pwd$", re.IGNORECASE)


def without_password(address: str) -> str:
    """The address with no password in it, neither before the host nor in its query; the user's name stays."""
    parts = urlsplit(address)
    if not parts.scheme:
        return address
    before, at, host = parts.netloc.rpartition("@")
    user = before.partition(":")[0]
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    open_pairs = [(name, value) for name, value in pairs if not _SECRET_WORDS.search(name)]
    query = parts.query if len(open_pairs) == len(pairs) else urlencode(open_pairs)
    if ":" not in before and query == parts.query:
        return address
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=query))


def has_password(address: str) -> bool:
    """Whether a password stands in the address."""
    return without_password(address) != address


def refuse_password(address: str | None) -> str | None:
    """The address of a field that is stored with the run. Raises ValueError, without the password, where it has one."""
    if address is not None and has_password(address):
        raise ValueError(
            "holds a password, which would be stored with every run; leave it out, and set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI as a whole, where the run's processes start"
        )
    return address


def _refuse_kept_password(text: str) -> str:
    try:
        keeps_one = has_password(text)
    except ValueError:  # no address
        return text
    if keeps_one:
        raise ValueError(
            "holds an address with a password, which would be stored with every run; leave it out, and set the variable"
            " where the run's processes start"
        )
    return text


def service_of(address: str) -> tuple[str, str] | None:
    """Name and namespace of the Kubernetes Service that an address names; None where it is known outside of pods, too."""
    service, _, rest = (urlsplit(address).hostname or "").partition(".")
    namespace, _, domain = rest.partition(".")
    return (service, namespace) if domain in ("svc", "svc.cluster.local") else None


_SERVERS = ("http", "https")
_DATABASES = ("postgresql", "mysql", "mssql", "sqlite")
_OTHER_STORES = ("", "file", "databricks", "databricks-uc", "uc")
"""A path has no scheme."""


def store_problem(address: str) -> str:
    """Why MLflow can't keep runs at an address, with what to write; empty where it may. Shows no password."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "is no address; write http://HOST:PORT, or sqlite:////PATH/mlflow.db"
    kind = parts.scheme.partition("+")[0]
    if kind not in (*_SERVERS, *_DATABASES, *_OTHER_STORES):
        return (
            f"{kind}:// is no kind of MLflow store; write http://HOST:PORT, https://HOST, sqlite:////PATH/mlflow.db or"
            " postgresql://HOST/NAME"
        )
    if kind in _SERVERS and not parts.hostname:
        return f"names no host; write {kind}://HOST:PORT"
    if kind == "sqlite" and parts.netloc:
        return "takes three slashes before a path, sqlite:///, four where the path begins with one"
    return ""


def _refuse_unknown_store(address: str | None) -> str | None:
    if address and (problem := store_problem(address)):
        raise ValueError(problem)
    return address


def with_password(address: str) -> str:
    """The address with the password that this process's MLFLOW_TRACKING_URI has for it."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if given and without_password(given) == address else address


def hidden(text: str, address: str) -> str:
    """A text without the secrets of an address."""
    parts = urlsplit(address)
    password = parts.netloc.rpartition("@")[0].partition(":")[2]
    secrets = [password, *(value for name, value in parse_qsl(parts.query) if _SECRET_WORDS.search(name))]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***").replace(unquote(secret), "***")
    return text


OpenAddress = Annotated[str | None, AfterValidator(refuse_password)]
"""An address without a password."""

StoreAddress = Annotated[OpenAddress, AfterValidator(_refuse_unknown_store)]
"""Of an MLflow store, of a kind that MLflow knows."""

OpenText = Annotated[str, AfterValidator(_refuse_kept_password)]
"""A variable's value that is no address with a password."""
