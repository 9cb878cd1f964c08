"""What a key looks like."""

import re

import pytest

from slotwise.keys.secret import digest, is_mistyped, new_secret


def test_a_key_is_long_and_no_two_are_the_same() -> None:
    secrets = {new_secret() for _ in range(1000)}

    assert len(secrets) == 1000
    assert all(re.fullmatch(r"sw-[0-9A-Za-z]{49}", secret) for secret in secrets)


def test_every_typo_of_one_character_is_seen() -> None:
    secret = new_secret()
    assert not is_mistyped(secret)

    for place in range(3, len(secret)):
        other = "x" if secret[place] != "x" else "y"
        assert is_mistyped(secret[:place] + other + secret[place + 1 :])
    assert is_mistyped(secret[:-1])
    assert is_mistyped(secret + "a")


@pytest.mark.parametrize("key", ["", "sk-something", "none"])
def test_a_key_of_somebody_else_is_no_typo(key: str) -> None:
    assert not is_mistyped(key)


def test_what_is_kept_is_not_the_key() -> None:
    secret = new_secret()

    assert len(digest(secret.encode())) == 32
    assert secret.encode() not in digest(secret.encode())
