"""Finding out about a server before it is measured: models, context, version, and how it counts tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from slotwise.benchmarks.asks import Ask
from slotwise.benchmarks.client import CONNECT_TIMEOUT_S, Target, make_client, send
from slotwise.benchmarks.document import ServerSample
from slotwise.benchmarks.prompts import Ruler, seeded, text
from slotwise.benchmarks.records import Attempt

#: Words of the two prompts that a server's counting is read from; the second is halved where it is too long.
_FEW_WORDS, _MANY_WORDS, _FEWEST_MANY = 10, 300, 40
_SAMPLE_S = 1.0
#: How long a slotwise server is watched for after a load, in seconds, until it has nothing in use.
_IDLE_WATCH_S, _IDLE_LOOK_S = 10.0, 0.02


class ServerUnfit(Exception):
    """Raised when a server can not be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a server says of itself."""

    models: tuple[str, ...]
    version: str
    #: Most tokens of a request; None where it does not say.
    context: int | None
    #: It is a slotwise server: it can be watched.
    is_ours: bool


async def inspect(url: str, models: tuple[str, ...], key: str = "") -> Inspected:
    """Ask a server for its models and what it is. `url` is the base URL with /v1.

    Raises:
        ServerUnfit: nobody answers, or a model is not there.
    """
    root = url.removesuffix("/v1")
    async with _client(key) as client:
        listed = await _listed(client, url)
        names = [str(entry.get("id", "")) for entry in listed]
        if missing := [model for model in models if model not in names and names]:
            raise ServerUnfit(f"{url} has no model '{missing[0]}'; it has {', '.join(names)}")
        chosen = models or tuple(names[:2])
        if not chosen:
            raise ServerUnfit(f"{url} lists no models; name one with --model")
        ours = await _json(client, f"{url}/slotwise/status")
        contexts = [entry["max_model_len"] for entry in listed if isinstance(entry.get("max_model_len"), int)]
        if ours is not None and "models" in ours:
            return Inspected(chosen, f"slotwise {ours.get('version', '')}", min(contexts, default=None), True)
        props = await _json(client, f"{root}/props") or {}
        per_slot = props.get("default_generation_settings", {}).get("n_ctx")
        contexts += [per_slot] if isinstance(per_slot, int) else []
        ollama = await _json(client, f"{root}/api/version") or {}
        version = str(props.get("build_info") or ollama.get("version") or "")
        return Inspected(chosen, version, min(contexts, default=None), False)


async def _listed(client: httpx.AsyncClient, url: str) -> list[dict[str, Any]]:
    try:
        response = await client.get(f"{url}/models")
    except httpx.HTTPError as error:
        raise ServerUnfit(f"nobody answers at {url} ({error or type(error).__name__})") from error
    if response.status_code in (401, 403):
        raise ServerUnfit(f"{url} wants a key; give it with --api-key")
    try:
        data = response.json()["data"]
        return [entry for entry in data if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError):
        return []


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any] | None:
    try:
        response = await client.get(url)
        body = response.json() if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
    return body if isinstance(body, dict) else None


async def fit_ruler(target: Target, key: str, salt: str) -> Ruler:
    """How the server counts tokens, from what it says of two prompts; loads the model on the way.

    Raises:
        ServerUnfit: it does not answer, or tells no usage.
    """
    async with make_client(target, 1) as client:

        async def counted(words: int) -> int | None:
            attempt = Attempt()
            content = text(seeded(salt, "ruler", words), words)
            await send(client, target, Ask(1, messages=({"role": "user", "content": content},), key=key), attempt)
            if attempt.output_tokens is None and words > _FEWEST_MANY:
                return None  # Perhaps it is too long.
            if attempt.output_tokens is None:
                raise ServerUnfit(f"{target.url} does not answer: {attempt.outcome.value} {attempt.detail}")
            if attempt.prompt_tokens is None:
                raise ServerUnfit(f"{target.url} tells no usage in streams; give the model file with --tokenizer")
            return attempt.prompt_tokens

        few = await counted(_FEW_WORDS) or 0
        many = _MANY_WORDS
        while (tokens := await counted(many)) is None:
            many = max(_FEWEST_MANY, many // 2)
        return Ruler.fit((_FEW_WORDS, few), (many, tokens))


@asynccontextmanager
async def watching(url: str, key: str) -> AsyncIterator[ServerWatch]:
    """A watch on a slotwise server, on a connection of its own."""
    async with _client(key) as client:
        yield ServerWatch(client, url)


def _client(key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(trust_env=False, timeout=CONNECT_TIMEOUT_S, headers=headers)


class ServerWatch:
    """Notes once a second what a slotwise server says of its slots, queue and cells."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = f"{url}/slotwise/status"
        self.samples: list[ServerSample] = []

    async def watch(self, now: float) -> None:
        """Until cancelled. `now`: seconds since the leg began."""
        begun = anyio.current_time() - now
        while True:
            sample = await self._sample(anyio.current_time() - begun)
            if sample is not None:
                self.samples.append(sample)
            await anyio.sleep(_SAMPLE_S)

    async def until_idle(self) -> float:
        """Seconds until nothing is in use; infinite if that does not come within 10 s."""
        begun = anyio.current_time()
        while anyio.current_time() - begun < _IDLE_WATCH_S:
            sample = await self._sample(0.0)
            if sample is not None and not (sample.busy_slots or sample.waiting or sample.cells_reserved):
                return anyio.current_time() - begun
            await anyio.sleep(_IDLE_LOOK_S)
        return float("inf")

    async def _sample(self, seconds: float) -> ServerSample | None:
        body = await _json(self._client, self._url)
        models = body.get("models") if body else None
        if not models:
            return None

        def total(name: str) -> int:
            return sum(int(model.get(name) or 0) for model in models)

        return ServerSample(
            seconds=seconds,
            busy_slots=total("busy_slots"),
            slots=total("slots"),
            waiting=total("waiting"),
            cells_used=total("cells_used"),
            cells_reserved=total("reserved_cells"),
            kv_cells=total("kv_cells"),
        )
