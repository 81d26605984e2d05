"""Which files of a folder stay behind: patterns as in ``.gitignore``, and what never travels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

IGNORE_FILES = (".gitignore", ".rayignore", ".trainwrightignore")
"""Read from the top of the folder, in this order; a later pattern wins. Patterns in folders below are not read."""

NEVER = (".git/", ".hg/", ".svn/", ".venv/", "venv/", "__pycache__/", "*.pyc", ".mypy_cache/", ".pytest_cache/",
         ".ruff_cache/", ".ipynb_checkpoints/", "node_modules/", "mlruns/", "mlflow.db", ".DS_Store")  # fmt: skip
"""What is of no use elsewhere."""

SECRETS = (".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.ppk", "*.keytab", "*.kdbx",
           "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials",
           ".aws/", ".ssh/", ".kube/", ".gnupg/", ".docker/", ".azure/", ".gcloud/", ".huggingface/", ".kaggle/",
           ".config/", ".boto", ".s3cfg", ".passwd-s3fs", ".pgpass", ".my.cnf", ".databrickscfg", ".dockercfg", ".vault-token",
           "rclone.conf", "terraform.tfstate*", "*.tfvars", "*.tfvars.json", ".terraformrc", "terraform.rc",
           "kubeconfig", "kubeconfig.*", "*.kubeconfig", "auth_token", "kaggle.json", "client_secret*.json",
           "credentials", "credentials.json", "credentials.y*ml", "credentials.toml", "credentials.ini", "credentials.csv", "application_default_credentials.json", "service-account*.json",
           "service_account*.json", "*secret*.yaml", "*secret*.yml", "*secret*.json", "*secret*.toml", ".htpasswd",
           "accesskeys.csv", "*_accesskeys.csv", ".streamlit/secrets.toml")  # fmt: skip
"""What holds credentials by its name, in any case of letters. No ignore file can bring these back."""

DATA = ("*.parquet", "*.arrow", "*.feather", "*.npy", "*.npz", "*.h5", "*.hdf5", "*.tfrecord", "*.tfrecords",
        "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "*.onnx", "*.gguf", "*.tar", "*.tar.gz", "*.tgz", "*.zip",
        "*.zst", "*.7z", "*.mp4", "*.sqlite", "*.db")  # fmt: skip
"""Data and weights: they belong to storage that the nodes reach. ``!pattern`` in an ignore file brings one back."""


class IgnoreRules:
    """An ordered list of patterns; the last that matches decides. Pure.

    Args:
        patterns: As lines of a ``.gitignore``.
        any_case: Whether capital and small letters are the same.
    """

    def __init__(self, patterns: Iterable[str], *, any_case: bool = False) -> None:
        self._fold = str.lower if any_case else str
        self._rules = [rule for rule in map(_parse, map(self._fold, patterns)) if rule is not None]

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Whether a path (relative, with ``/``) is left out. A caller that walks does not look into a folder that
        is, so a pattern can't bring back what lies in one, as with git.
        """
        verdict, path = False, self._fold(path)
        for expression, is_negated, folders_only in self._rules:
            if (is_folder or not folders_only) and expression.fullmatch(path):
                verdict = not is_negated
        return verdict


@lru_cache(maxsize=1024)
def _parse(line: str) -> tuple[re.Pattern[str], bool, bool] | None:
    pattern = line.rstrip("\r\n")
    if not pattern.endswith("\\ "):
        pattern = pattern.rstrip(" ")
    if not pattern or pattern.startswith("#"):
        return None
    is_negated = pattern.startswith("!")
    pattern = pattern[1:] if is_negated else pattern
    folders_only = pattern.endswith("/")
    pattern = pattern.rstrip("/") if folders_only else pattern
    is_anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    if not pattern:
        return None
    expression = _translate(pattern)
    return (
        re.compile(expression if is_anchored else f"(?:.*/)?{expression}", re.DOTALL),
        is_negated,
        folders_only,
    )


def _translate(pattern: str) -> str:
    """A git wildcard pattern as a regular expression over a whole path."""
    out = ""
    position = 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/") and (position == 0 or pattern[position - 1] == "/"):
            out += "(?:.*/)?"
            position += 3
        elif rest == "**" and position and pattern[position - 1] == "/":
            out += ".+"
            position += 2
        elif rest[0] == "*":
            out += "[^/]*"
            position += 1
        elif rest[0] == "?":
            out += "[^/]"
            position += 1
        elif rest[0] == "[" and (closing := pattern.find("]", position + 2)) > 0:
            inside = pattern[position + 1 : closing]
            is_not = inside[0] in "!^"
            inside = (inside[1:] if is_not else inside).replace("\\", "\\\\").replace("[", "\\[")
            out += f"(?!/)[{'^' if is_not else ''}{inside}]"
            position = closing + 1
        elif rest[0] == "\\" and len(rest) > 1:
            out += re.escape(rest[1])
            position += 2
        else:
            out += re.escape(rest[0])
            position += 1
    return out
