"""Whether Retry-After is honest: a crowd comes at once, and whoever is refused comes back when told to.

    slotwise serve --port 11500 --max-wait 5 --num-parallel 4 --context 1024 --preload &
    python -m slotwise.benchmarks.comebacks --url http://127.0.0.1:11500/v1

Told too little, who comes back is refused again, and is let in later than told. Told too much, there would have been
room before: so another crowd comes back early (`--come 0.7`: after 70% of what it was told), and not all may find some.
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

_WITHIN = 0.3
#: Told are whole seconds, at least one: less than this says nothing about 30%.
_LEAST_TOLD_S = 4.0
#: A server that knows nothing refuses nobody (`scheduler/demand`): so many times all slots are used before.
_ROUNDS_BEFORE = 12


@dataclass(slots=True)
class _Refused:
    """Somebody who was refused: what was told the first time, whether the first retry was let in, and when one was, in
    seconds from the refusal."""

    told_s: float
    first_let_in: bool = False
    let_in_s: float = 0.0


@dataclass(slots=True)
class _Crowd:
    client: httpx.AsyncClient
    url: str
    model: str
    tokens: int
    #: They come back after so much of what they were told first.
    come: float
    refused: list[_Refused] = field(default_factory=list)
    served: int = 0
    failed: list[str] = field(default_factory=list)

    async def ask(self, user: str) -> httpx.Response:
        message = {"role": "user", "content": "Hello there, how are you today?"}
        body = {"model": self.model, "messages": [message], "max_tokens": self.tokens, "ignore_eos": True, "user": user}
        return await self.client.post(f"{self.url}/chat/completions", json=body)

    async def person(self, number: int) -> None:
        """Asks until served."""
        response, refused = await self.ask(f"person {number}"), None
        began = came = time.perf_counter()
        while response.status_code == 429:
            told = float(response.headers["retry-after"])
            is_first = refused is None
            refused = refused or _Refused(told)
            await asyncio.sleep(told * (self.come if is_first else 1.0))
            came = time.perf_counter()
            response = await self.ask(f"person {number}")
            if is_first:
                refused.first_let_in = response.status_code == 200
        if refused is not None:
            refused.let_in_s = came - began
            self.refused.append(refused)
        if response.status_code == 200:
            self.served += 1
        else:
            self.failed.append(response.text[:200])


def _share(of: list[bool]) -> float | None:
    return round(statistics.mean(of), 3) if of else None


async def measure(url: str, people: int, tokens: int, come: float) -> dict[str, object]:
    """Figures of one crowd; shares are of those who were told enough for 30% to mean something."""
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        status = (await client.get(f"{url}/slotwise/status")).json()["models"][0]
        crowd = _Crowd(client, url, status["model"], tokens, come)
        for _ in range(_ROUNDS_BEFORE):
            await asyncio.gather(*[crowd.ask(f"before {number}") for number in range(status["slots"])])
        began = time.perf_counter()
        await asyncio.gather(*[crowd.person(number) for number in range(people)])
        took = time.perf_counter() - began
    told = [one for one in crowd.refused if one.told_s >= _LEAST_TOLD_S]
    return {
        "people": people,
        "served": crowd.served,
        "failed": crowd.failed,
        "refused": len(crowd.refused),
        "told_s": [min(one.told_s for one in told), max(one.told_s for one in told)] if told else None,
        "came_after": come,
        "let_in_at_first_retry": _share([one.first_let_in for one in told]),
        "let_in_within_30_percent": _share([abs(one.let_in_s / one.told_s - 1) <= _WITHIN for one in told]),
        "took_s": round(took, 1),
    }


def main(
    url: Annotated[str, typer.Option(help="Base URL, with /v1.")] = "http://127.0.0.1:11435/v1",
    people: Annotated[int, typer.Option(help="Who come at once.", min=1)] = 120,
    tokens: Annotated[int, typer.Option(help="Of an answer.", min=1)] = 48,
    come: Annotated[float, typer.Option(help="They come back after this part of what they were told.", min=0.1)] = 1.0,
) -> None:
    Console().print_json(data=asyncio.run(measure(url, people, tokens, come)))


if __name__ == "__main__":
    typer.run(main)
