"""Why a cluster's API gave no answer, in a few words for a person. Pure."""

from __future__ import annotations

_SIGNS = (
    ("Name or service not known", "no such host"),
    ("Temporary failure in name resolution", "no such host"),
    ("Connection refused", "connection refused"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
    ("timed out", "no answer in time"),
)
"""What an HTTP library's error says -> what that means."""


def connection_problem(error: Exception) -> str:
    """Why there was no answer, from whatever error an HTTP library raised."""
    text = str(error)
    return next((meaning for sign, meaning in _SIGNS if sign in text), "connection dropped")
