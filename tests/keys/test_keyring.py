"""Who is let in, by what the server was started with and by what is in the store."""

from pathlib import Path

import anyio
import pytest

from slotwise.errors import InvalidApiKey
from slotwise.keys.keyring import Keyring
from slotwise.keys.store import KeyStore
from slotwise.scheduler.policy import KeyPolicy
from tests.waiting import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _refusal(keyring: Keyring, secret: str) -> str:
    with pytest.raises(InvalidApiKey) as caught:
        keyring.identify(secret.encode())
    return str(caught.value)


def test_a_key_is_known_by_its_name_and_a_given_one_by_a_digest(tmp_path: Path) -> None:
    store, clock = KeyStore(tmp_path), Clock()
    secret = store.add("ann", KeyPolicy(weight=2.0), clock.now)
    keyring = Keyring(["given"], store, clock)

    assert keyring.identify(secret.encode()) == "ann"
    assert keyring.policies["ann"].weight == 2.0
    name = keyring.identify(b"given")
    assert len(name) == 12
    assert name not in keyring.policies
    assert "not known" in _refusal(keyring, "other")
    assert "No API key" in _refusal(keyring, "")
    assert "mistyped" in _refusal(keyring, secret[:-1] + ("a" if secret[-1] != "a" else "b"))


def test_keys_come_to_an_end(tmp_path: Path) -> None:
    store, clock = KeyStore(tmp_path), Clock()
    short = store.add("short", KeyPolicy(), clock.now, expires=1010.0)
    old = store.add("turned", KeyPolicy(), clock.now)
    new = store.rotate("turned", clock.now, grace_s=5.0)
    gone = store.add("gone", KeyPolicy(), clock.now)
    store.revoke("gone", clock.now)
    keyring = Keyring(store=store, clock=clock)

    assert [keyring.identify(secret.encode()) for secret in (short, old, new)] == ["short", "turned", "turned"]
    assert "revoked" in _refusal(keyring, gone)
    clock.now = 1020.0
    assert "expired" in _refusal(keyring, short)
    assert "rotated" in _refusal(keyring, old)
    assert keyring.identify(new.encode()) == "turned"


def test_without_any_key_nobody_is_asked(tmp_path: Path) -> None:
    keyring = Keyring(store=KeyStore(tmp_path))

    assert not keyring.asks
    assert keyring.identify(b"") == ""
    assert keyring.identify(b"a") != keyring.identify(b"b")


async def test_a_running_server_knows_of_changes(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    keyring = Keyring(store=store)
    policies = keyring.policies
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keyring.watch)
        secret = await anyio.to_thread.run_sync(lambda: store.add("ann", KeyPolicy(max_parallel=1), 1.0))
        await eventually(lambda: keyring.asks)
        assert keyring.identify(secret.encode()) == "ann"
        assert policies["ann"].max_parallel == 1

        await anyio.to_thread.run_sync(lambda: store.revoke("ann", 2.0))
        await eventually(lambda: not _is_let_in(keyring, secret))
        tasks.cancel_scope.cancel()

    assert keyring.asks, "the last key to be revoked opens nothing"


async def test_a_store_that_is_spoiled_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore(tmp_path)
    secret = store.add("ann", KeyPolicy(), 1.0)
    keyring = Keyring(store=store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keyring.watch)
        store.path.write_bytes(b"rubbish" * 1000)
        await eventually(lambda: "stay as they were" in caplog.text)
        tasks.cancel_scope.cancel()

    assert keyring.identify(secret.encode()) == "ann"


def _is_let_in(keyring: Keyring, secret: str) -> bool:
    try:
        keyring.identify(secret.encode())
    except InvalidApiKey:
        return False
    return True


def test_who_administers(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    assert Keyring([], store).administers(""), "where no key is asked for"
    secrets = {name: store.add(name, KeyPolicy(), 1.0, admin=name == "root") for name in ("ann", "root")}
    keyring = Keyring(["given"], store)
    names = {key: keyring.identify(key.encode()) for key in ("given", *secrets.values())}

    assert keyring.administers(names["given"])
    assert not keyring.administers(names[secrets["ann"]])
    assert keyring.administers(names[secrets["root"]])
    assert not keyring.administers("")
