"""What must not be written down, and names that stay where they belong.

Keys and tokens come in through environment variables and URLs, and may turn up in any message of any library. So every
text on its way to a file, a table or a terminal goes through :func:`redact`. Names that people choose become parts of
file names through :func:`file_name` alone.

Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

#: How the names of environment variables end that hold a secret.
SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")

#: What stands in a secret's place.
HIDDEN = "[hidden]"

#: Shorter values are words that stand in any text.
_SHORTEST = 8

#: The same for one line of a value of many lines, such as a private key.
_SHORTEST_LINE = 20

#: ``https://user:password@host``, and ``?api_key=...`` behind an address.
_USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@]*(?:@[^/\s@]*)*@", re.IGNORECASE)
_QUERY = re.compile(r"([?&][\w.-]*(?:key|token|secret|password|signature)=)[^&\s#'\"]+", re.IGNORECASE)

_LONGEST_NAME = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+=@-]+")


def redact(text: str) -> str:
    """The text without the values of secret environment variables and without credentials in addresses.

    >>> redact("cannot reach https://me:pass@example.org/x")
    'cannot reach https://[hidden]@example.org/x'
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    return _QUERY.sub(rf"\1{HIDDEN}", text)


def redacted(value: Any) -> Any:
    """Plain values, however deep, with every text in them redacted; keys stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redacted(item) for item in value)
    return value


def redact_file(path: Path) -> None:
    """Redacts a text that somebody else wrote, such as what a process printed; one without secrets is not touched."""
    with suppress(OSError):
        before = path.read_bytes()
        text = before.decode("utf-8", "surrogateescape")
        after = redact(text)
        if after != text:
            path.write_bytes(after.encode("utf-8", "surrogateescape"))


def file_name(text: str) -> str:
    """One harmless part of a path that still reads like ``text``: no slash, no leading dot, never empty or too long.

    >>> file_name("../../x y")
    '-..-x-y'
    """
    name = _UNSAFE.sub("-", text).lstrip(".") or "unnamed"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}-{digest}"


def _secrets() -> list[str]:
    """Values to hide, as they are and as Python and addresses spell them; the longest first."""
    found = set()
    for name, value in os.environ.items():
        if name.upper().endswith(SECRET_NAMES) and len(value.strip()) >= _SHORTEST:
            plain = value.strip()
            found |= {plain, repr(plain)[1:-1], quote(plain, safe="")}
            found |= {line for line in plain.splitlines() if len(line) >= _SHORTEST_LINE}  # messages are cut to one
    return sorted(found, key=len, reverse=True)
