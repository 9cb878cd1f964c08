"""Work for a client that may leave: then it is cancelled, and whatever it holds is given back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from starlette.types import Receive


async def unless_left(receive: Receive, work: Callable[[], Awaitable[None]]) -> bool:
    """Do `work`, with the client watched whose body was read from `receive`. False: it left before the end. What `work`
    raises is raised as it is, not in a group."""
    finished = False
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            nonlocal finished, failure
            try:
                await work()
            except Exception as error:
                failure = error
            finished = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        await _disconnected(receive)
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return finished


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
