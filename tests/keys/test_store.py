"""Keys on disk: what was written is read, and nobody else reads it."""

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slotwise.keys.secret import digest
from slotwise.keys.store import KeyStore, KeyStoreError
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import KeyPolicy

POLICY = KeyPolicy(2.5, Priority.HIGH, 3, 0, 60_000, 2048, frozenset({"a", "b"}), "law")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "new" / "folder")
    assert (store.read(), store.exists) == (([], []), False)

    secret = store.add("ann", POLICY, now=100.0, expires=200.0)
    store.add("bob", KeyPolicy(), now=101.0)
    (ann, bob), secrets = KeyStore(tmp_path / "new" / "folder").read()

    assert (ann.name, ann.policy, ann.created, ann.expires, ann.revoked) == ("ann", POLICY, 100.0, 200.0, None)
    assert bob.policy == KeyPolicy()
    assert [(one.name, one.digest, one.shown) for one in secrets][0] == ("ann", digest(secret.encode()), secret[:9])
    assert (ann.is_valid(199.0), ann.is_valid(200.0)) == (True, False)


def test_the_key_itself_is_nowhere_in_the_file(tmp_path: Path) -> None:
    secret = KeyStore(tmp_path).add("ann", KeyPolicy(), now=1.0)

    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    assert secret[12:].encode() not in (tmp_path / "slotwise.db").read_bytes()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.add("ann", KeyPolicy(), now=1.0)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600

    store.path.chmod(0o640)
    with pytest.raises(KeyStoreError, match="640"):
        store.read()


def test_a_name_is_used_once(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.add("ann", KeyPolicy(), now=1.0)
    store.revoke("ann", now=2.0)

    with pytest.raises(KeyStoreError, match="ann"):
        store.add("ann", KeyPolicy(), now=3.0)


def test_a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    old = store.add("ann", KeyPolicy(), now=1.0)
    new = store.rotate("ann", now=10.0, grace_s=60.0)
    _, secrets = store.read()

    by_digest = {secret.digest: secret for secret in secrets}
    assert by_digest[digest(old.encode())].expires == 70.0
    assert by_digest[digest(new.encode())].expires is None

    store.rotate("ann", now=20.0)
    _, secrets = store.read()
    assert [secret.is_valid(20.0) for secret in secrets] == [False, False, True]


def test_what_is_not_there_can_not_be_changed(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.add("ann", KeyPolicy(), now=1.0, expires=5.0)

    with pytest.raises(KeyStoreError, match="no key 'bob'; there are ann"):
        store.revoke("bob", now=2.0)
    with pytest.raises(KeyStoreError, match="expired"):
        store.rotate("ann", now=6.0)


def test_every_change_is_seen(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    versions = [store.version()]
    for change in (
        lambda: store.add("a", KeyPolicy(), 1.0),
        lambda: store.add("b", KeyPolicy(), 1.0),
        lambda: store.revoke("a", 2.0),
    ):
        change()
        versions.append(store.version())
        store.read()
        assert store.version() == versions[-1], "reading is no change"

    assert len(set(versions)) == 4


def test_many_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: KeyStore(tmp_path).add(f"k{number}", KeyPolicy(), 1.0), range(24)))

    keys, secrets = KeyStore(tmp_path).read()
    assert len(keys) == len(secrets) == 24


@pytest.mark.parametrize("content", [b"rubbish" * 1000, b""])
def test_a_file_that_is_none_is_refused_or_begun(tmp_path: Path, content: bytes) -> None:
    store = KeyStore(tmp_path)
    store.path.write_bytes(content)
    store.path.chmod(0o600)

    if content:
        with pytest.raises(KeyStoreError, match="can not be used"):
            store.read()
    else:
        assert store.read() == ([], [])


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.add("ann", KeyPolicy(), 1.0)
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()

    with pytest.raises(KeyStoreError, match="newer"):
        store.read()


def test_a_file_from_before_there_were_admins_is_read(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.add("ann", KeyPolicy(2.0), now=1.0)
    with sqlite3.connect(store.path) as database:
        database.execute("ALTER TABLE keys DROP COLUMN admin")
        database.execute('ALTER TABLE keys DROP COLUMN "group"')
        database.execute("PRAGMA user_version = 1")
    database.close()
    store.add("root", KeyPolicy(), now=2.0, admin=True)

    (ann, root), _ = store.read()
    assert (ann.policy, ann.admin, root.admin) == (KeyPolicy(2.0), False, True)
