"""Keys and passwords kept out of what is printed or written: those of the environment, and those within addresses."""

from __future__ import annotations

import re

from ssd_train.environment import secrets

HIDDEN = "***"
_PATTERNS = (
    (re.compile(r"(\w://)[^/@\s'\"]+:[^/@\s'\"]*@"), rf"\1{HIDDEN}@"),  # user:password@host
    # signed addresses, of S3 and of others
    (
        re.compile(
            r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig|token|password)=)[^&\s'\"]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),  # ids of AWS access keys
)


def hidden(text: str) -> str:
    """`text` without secrets; each leaves ***."""
    for secret in secrets():
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
