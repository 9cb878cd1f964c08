"""Whether a server that was just started is ready: it is up, it has a model, and it has answered."""

from __future__ import annotations

from contextlib import suppress

import anyio
import httpx

from slotwise.benchmarks.peers import PeerError

#: Seconds that a server may take to say any of it; a completion takes as long as it takes.
TIMEOUT_S = 10.0
_POLL_S = 0.1


def client(root: str) -> httpx.AsyncClient:
    """For a few questions with long pauses: a connection each. The environment's proxies are for the world outside."""
    headers = {"connection": "close"}
    return httpx.AsyncClient(base_url=root, timeout=TIMEOUT_S, headers=headers, trust_env=False)


async def until_ok(client: httpx.AsyncClient, path: str) -> None:
    """Asks until the answer is 200; the caller sets the limit."""
    while True:
        with suppress(httpx.HTTPError):
            if (await client.get(path)).status_code == 200:
                return
        await anyio.sleep(_POLL_S)


async def first_model(client: httpx.AsyncClient) -> str:
    """Its name. Raises PeerError: it does not list its models, or has none."""
    try:
        answer = await client.get("/v1/models")
        answer.raise_for_status()
        names = [str(model["id"]) for model in answer.json()["data"]]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise PeerError(f"does not list its models: {error or type(error).__name__}") from error
    if not names:
        raise PeerError("has no model")
    return names[0]


async def answer_once(client: httpx.AsyncClient, model: str) -> None:
    """Raises PeerError. Has no time limit of its own: the model may have to be loaded first."""
    body = {"model": model, "prompt": "warm up", "max_tokens": 1}
    try:
        answer = await client.post("/v1/completions", json=body, timeout=None)
    except httpx.HTTPError as error:
        raise PeerError(f"broke off its first completion: {error or type(error).__name__}") from error
    if answer.status_code != 200:
        raise PeerError(f"refused its first completion: {answer.status_code} {answer.text[:300]}")
