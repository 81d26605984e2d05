"""Which files hold credentials by what is in them: formats that their issuers publish, and nothing that is guessed. Pure.

Entropy and words such as "password" are not looked at: code is full of both, and a job must not be refused for a hash.
docs/decisions.md says why this is no library.
"""

from __future__ import annotations

import re
from pathlib import Path

LARGEST_SCANNED_BYTES = 2 * 10**6
"""Credentials stand in small text files; what is larger is data."""

FORMATS = {
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\s+[A-Za-z0-9+/=]"
    rb"|\"private_key\": *\"-----BEGIN|^PuTTY-User-Key-File-\d",
    "an AWS access key": rb"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Z0-9])",
    "a GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{60,}",
    "a GitLab token": rb"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{34,}",
    "a Google API key": rb"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])",
    "an OpenAI or Anthropic key": rb"\bsk-(?:ant-|proj-)[A-Za-z0-9_-]{20,}|\bsk-[A-Za-z0-9]{48}\b",
    "a Slack token": rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "an npm or PyPI token": rb"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}",
    "a Databricks token": rb"\bdapi[a-f0-9]{32}\b",
    "an Azure storage key": rb"AccountKey=[A-Za-z0-9+/]{86}==",
    "an AWS secret key": rb"(?i:aws_?secret_?access_?key)\W{1,6}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a Stripe key": rb"\b[rs]k_live_[A-Za-z0-9]{20,}",
    "a SendGrid key": rb"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b",
    "a Weights & Biases login": rb"(?i:api\.wandb\.ai)\s+login\s+\S+\s+password\s+[a-f0-9]{40}|\bWANDB_API_KEY\W{1,4}[a-f0-9]{40}\b",
    "a Docker login": rb"\"auth\": *\"[A-Za-z0-9+/]{16,}={0,2}\"",
    "an address with a password": rb"\b[a-z][a-z0-9+]{1,20}://[A-Za-z0-9._%-]{1,64}:(?![$<{%*]|(?i:password|pass|secret|pw|token|x+)@)[^\s:/@'\"{}<>$]{6,128}@[A-Za-z0-9]",
    "a Kubernetes login": rb"\b(?:client-key-data|client-certificate-data): [A-Za-z0-9+/]{40,}",
}
"""What it is -> how its issuer writes it."""

_ANY = re.compile(b"|".join(b"(%s)" % pattern for pattern in FORMATS.values()))


def credentials_in(path: Path) -> str:
    """What kind of credentials a file holds; empty where there are none of a known format."""
    if path.stat().st_size > LARGEST_SCANNED_BYTES:
        return ""
    found = _ANY.search(path.read_bytes())
    return list(FORMATS)[(found.lastindex or 1) - 1] if found else ""
