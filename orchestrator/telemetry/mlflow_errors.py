"""What MLflow's errors mean, in a few words for a person. No password of the address is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.spec.addresses import hidden, with_password

_LONGEST = 200

_MEANINGS = (
    (
        r"\b401\b|UNAUTHENTICATED",
        "it asks for a user name and password (MLFLOW_TRACKING_USERNAME, _PASSWORD)",
    ),
    (r"\b403\b|PERMISSION_DENIED", "this user may not write there (403)"),
    (r"database is locked", "its database is locked by another process"),
    (r"<!doctype|<html", "it answers with a web page, not as MLflow does: is the address right?"),
    (r"Read timed out|ReadTimeout", "it did not answer in time"),
    (r"Connection refused|NewConnectionError", "nothing answers there: connection refused"),
    (r"Name or service not known|NameResolutionError|Temporary failure in name", "no host has that name"),
    (
        r"too many (?P<code>5\d\d) error|error code (?P<code2>5\d\d)",
        "it answers with an error of its own ({code})",
    ),
    (r"No module named '?mlflow", "the package mlflow is not installed here"),
)


class TrackedRunGoneError(Exception):
    """The run, or its experiment, was deleted in MLflow. Its message is one sentence."""


def is_gone(error: BaseException) -> bool:
    """Whether MLflow has nothing of the run any more."""
    return isinstance(error, TrackedRunGoneError)


def sentence(error: BaseException, address: str) -> str:
    """Why a call failed, without a line end."""
    if isinstance(error, TrackedRunGoneError):
        return str(error)
    text = "\n".join(str(cause) or type(cause).__name__ for cause in _causes(error))
    for pattern, meaning in _MEANINGS:
        if match := re.search(pattern, text, re.IGNORECASE):
            code = next(filter(None, match.groupdict().values()), "")
            return meaning.format(code=code)
    first = text.strip().splitlines()[0][:_LONGEST]
    return hidden(first, with_password(address))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
