"""Redaction of secrets from environment variables and URLs in printed or written text."""

from __future__ import annotations

import re

from ssd_train.environment import secrets

HIDDEN = "***"
_PATTERNS = (
    (re.compile(r"(\w://)[^/@\s'\"]+:[^/@\s'\"]*@"), rf"\1{HIDDEN}@"),  # user:password@host
    # signed URLs
    (
        re.compile(
            r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig|token|password)=)[^&\s'\"]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),  # ids of AWS access keys
)


def redact(text: str) -> str:
    """Return `text` with each secret replaced by ***."""
    for secret in secrets():
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
