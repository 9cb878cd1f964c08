"""Whether Retry-After is honest: a crowd comes at once, and whoever is refused comes back when told to.

    slotwise serve --port 11500 --max-wait 5 --preload &
    python -m slotwise.benchmarks.comebacks --url http://127.0.0.1:11500/v1

Told too little, who comes back is refused again. Told too much, there was room before: so one in `_EARLY_OF` comes back
30% early, and should find none. A client library doubles or halves nothing of what it is told, so neither does this.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import Annotated

import httpx
import typer
from rich.console import Console

_EARLY_OF = 8
_EARLY = 0.7
#: The wait of a retry is told in whole seconds, and none is under one: less than this says nothing about 30%.
_LEAST_TOLD_S = 4.0


@dataclass(slots=True)
class _Comeback:
    """One time that a request came back."""

    told_s: float
    early: bool
    first: bool
    let_in: bool


@dataclass(slots=True)
class _Crowd:
    client: httpx.AsyncClient
    url: str
    model: str
    tokens: int
    comebacks: list[_Comeback] = field(default_factory=list)
    refused_at_once: int = 0
    served: int = 0
    failed: list[str] = field(default_factory=list)

    async def ask(self, user: str) -> httpx.Response:
        message = {"role": "user", "content": "Hello there, how are you today?"}
        body = {"model": self.model, "messages": [message], "max_tokens": self.tokens, "ignore_eos": True, "user": user}
        return await self.client.post(f"{self.url}/chat/completions", json=body)

    async def person(self, number: int) -> None:
        """Asks until served. What it is told first is tried as told, or early; from then on as told."""
        response, times = await self.ask(f"person {number}"), 0
        self.refused_at_once += response.status_code == 429
        while response.status_code == 429:
            told, early = float(response.headers["retry-after"]), times == 0 and number % _EARLY_OF == 0
            await asyncio.sleep(told * (_EARLY if early else 1.0))
            response = await self.ask(f"person {number}")
            self.comebacks.append(_Comeback(told, early, times == 0, response.status_code != 429))
            times += 1
        if response.status_code == 200:
            self.served += 1
        else:
            self.failed.append(response.text[:200])


def _share(comebacks: list[_Comeback]) -> float | None:
    return round(statistics.mean(one.let_in for one in comebacks), 3) if comebacks else None


async def measure(url: str, people: int, tokens: int) -> dict[str, object]:
    """Figures of one crowd; shares are of those who came back."""
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        status = (await client.get(f"{url}/slotwise/status")).json()["models"][0]
        crowd = _Crowd(client, url, status["model"], tokens)
        for _ in range(3):  # what such requests take is known
            await asyncio.gather(*[crowd.ask(f"before {number}") for number in range(status["slots"])])
        began = time.perf_counter()
        await asyncio.gather(*[crowd.person(number) for number in range(people)])
        took = time.perf_counter() - began
    long = [one for one in crowd.comebacks if one.told_s >= _LEAST_TOLD_S]
    as_told = [one for one in crowd.comebacks if not one.early]
    early = [one for one in long if one.early]
    return {
        "people": people,
        "served": crowd.served,
        "failed": crowd.failed,
        "refused_at_once": crowd.refused_at_once,
        "told_s": [min(one.told_s for one in crowd.comebacks), max(one.told_s for one in crowd.comebacks)]
        if crowd.comebacks
        else None,
        "came_as_told": len(as_told),
        "came_as_told_let_in": _share(as_told),
        "came_early": len(early),
        "came_early_let_in": _share(early),
        "took_s": round(took, 1),
    }


def main(
    url: Annotated[str, typer.Option(help="Base URL, with /v1.")] = "http://127.0.0.1:11435/v1",
    people: Annotated[int, typer.Option(help="Who come at once.", min=1)] = 120,
    tokens: Annotated[int, typer.Option(help="Of an answer.", min=1)] = 48,
) -> None:
    Console().print_json(data=asyncio.run(measure(url, people, tokens)))


if __name__ == "__main__":
    typer.run(main)
