"""The form of a key: `sw-`, 256 random bits, and a checksum, so that a typo is told from a key that is not known. Pure.

So many random bits need no slow hash: a plain SHA-256 of a key can be kept, and can not be turned back into it.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

PREFIX = "sw-"
#: How much of a key is shown where keys are listed.
SHOWN = len(PREFIX) + 6
_ALPHABET = string.digits + string.ascii_letters
_BODY, _CHECK = 43, 6


def new_secret() -> str:
    """A key that nobody has."""
    body = _base62(secrets.randbits(256), _BODY)
    return f"{PREFIX}{body}{_checksum(body)}"


def digest(secret: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(secret).digest()


def is_mistyped(secret: str) -> bool:
    """It looks like a key of ours and can not be one."""
    if not secret.startswith(PREFIX):
        return False
    body, check = secret[len(PREFIX) : -_CHECK], secret[-_CHECK:]
    return len(body) != _BODY or check != _checksum(body)


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
