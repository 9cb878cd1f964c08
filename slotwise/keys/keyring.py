"""The keys that a running server knows: those it was started with, and those in its store, which may change."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread

from slotwise.errors import InvalidApiKey
from slotwise.keys.secret import digest, is_mistyped
from slotwise.keys.store import Key, KeyStore, KeyStoreError, Secret
from slotwise.scheduler.policy import KeyPolicy

logger = logging.getLogger(__name__)

#: A change in the store is known to the server after so long.
LOOK_S = 0.5
#: How much of the digest of a key without a name is its name.
_NAME_LENGTH = 12


class Keyring:
    """Who may ask, and what. Read on the event loop only; the store is read on a thread."""

    def __init__(
        self, api_keys: Sequence[str] = (), store: KeyStore | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """`api_keys`: keys without names or limits. Raises KeyStoreError: the store can not be read."""
        self._given = [digest(key.encode()) for key in api_keys]
        #: Whoever starts the server with a key may do everything with it.
        self._given_names = {hashed.hex()[:_NAME_LENGTH] for hashed in self._given}
        self._store = store
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._secrets: list[Secret] = []
        #: What each key may, by name; the scheduler looks here.
        self.policies: dict[str, KeyPolicy] = {}
        self._version: tuple[int, ...] = ()
        #: Once keys are asked for they always are: the last one to be revoked opens nothing.
        self.asks = bool(self._given)
        if store is not None:
            self._version = store.version()
            self._take(*store.read())

    def identify(self, presented: bytes) -> str:
        """The name of whoever presents a key ("" if none is asked for and none is presented).

        Raises:
            InvalidApiKey: a key is asked for, and this is none, or no longer.
        """
        hashed = digest(presented)
        if not self.asks:
            return hashed.hex()[:_NAME_LENGTH] if presented else ""
        if not presented:
            raise InvalidApiKey("No API key was given. Send it as 'Authorization: Bearer KEY'.")
        # All are compared, each in constant time: how long it takes says nothing about which is close.
        given = sum(hmac.compare_digest(hashed, known) for known in self._given)
        found = [secret for secret in self._secrets if hmac.compare_digest(hashed, secret.digest)]
        if given:
            return hashed.hex()[:_NAME_LENGTH]
        if not found:
            mistyped = is_mistyped(presented.decode("latin-1"))
            raise InvalidApiKey("The API key is mistyped." if mistyped else "The API key is not known here.")
        self._check(found[0])
        return found[0].name

    def administers(self, name: str) -> bool:
        """Whoever was identified by this name may change what is there for others."""
        if not self.asks or name in self._given_names:
            return True
        return name in self._keys and self._keys[name].admin

    async def watch(self) -> None:
        """Take changes of the store over as they come. Runs until cancelled."""
        while self._store is not None:
            await anyio.sleep(LOOK_S)
            version = self._store.version()
            if version == self._version:
                continue
            try:
                keys, secrets = await anyio.to_thread.run_sync(self._store.read)
            except KeyStoreError as error:
                logger.error("the keys stay as they were: %s", error)
            else:
                self._take(keys, secrets)
                # Only now: what could not be read is tried again.
                self._version = version
                logger.info("%d keys are valid now", sum(key.is_valid(self._clock()) for key in keys))

    def _take(self, keys: list[Key], secrets: list[Secret]) -> None:
        self._keys = {key.name: key for key in keys}
        self._secrets = secrets
        self.policies.clear()
        self.policies.update({key.name: key.policy for key in keys})
        self.asks = self.asks or bool(keys)

    def _check(self, secret: Secret) -> None:
        now, key = self._clock(), self._keys[secret.name]
        if key.revoked is not None:
            raise InvalidApiKey(f"The API key '{key.name}' was revoked.")
        if not key.is_valid(now):
            raise InvalidApiKey(f"The API key '{key.name}' has expired.")
        if not secret.is_valid(now):
            raise InvalidApiKey(f"The API key '{key.name}' was rotated; this is the old one.")
