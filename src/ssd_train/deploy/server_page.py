"""The server's page, and the headers that let it do what it does and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("server_page.html").read_bytes()


def _hash(tag: str) -> str:
    """The hash by which a browser knows the one script, or the one style, that it may use."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>".encode(), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_hash('script')}",
        f"style-src {_hash('style')}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = (("content-security-policy", _POLICY), ("referrer-policy", "no-referrer"))
