"""What a server says of itself, by servers of several kinds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from slotwise.benchmarks.client import Target
from slotwise.benchmarks.survey import ServerUnfit, fit_ruler, inspect, watching
from tests.benchmarks.served import serving
from tests.waiting import eventually

STATUS: dict[str, Any] = {
    "version": "9.9",
    "models": [
        {"busy_slots": 2, "slots": 4, "waiting": 1, "cells_used": 10, "reserved_cells": 30, "kv_cells": 100},
        {"busy_slots": 1, "slots": 4, "waiting": 0, "cells_used": 5, "reserved_cells": 7, "kv_cells": 50},
    ],
}


def _json(body: Any, status: int = 200) -> Any:
    async def answer(request: Request) -> Response:
        return JSONResponse(body, status)

    return answer


@asynccontextmanager
async def _server(**paths: Any) -> AsyncIterator[str]:
    """A server with these paths ("v1_models" is /v1/models); the rest is 404."""
    routes = [Route("/" + path.replace("_", "/"), answer, methods=["GET", "POST"]) for path, answer in paths.items()]
    async with serving(Starlette(routes=routes)) as root:
        yield f"{root}/v1"


MODELS = {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "max_model_len": 2048}, {"id": "c"}]}


async def test_a_server_of_ours() -> None:
    async with _server(v1_models=_json(MODELS), v1_slotwise_status=_json(STATUS)) as url:
        found = await inspect(url, ())

    assert (found.models, found.version, found.context, found.is_ours) == (("a", "b"), "slotwise 9.9", 2048, True)


async def test_a_llama_server_says_the_context_of_a_slot() -> None:
    props = {"build_info": "b1-abc", "default_generation_settings": {"n_ctx": 1024}}
    async with _server(v1_models=_json({"data": [{"id": "x"}]}), props=_json(props)) as url:
        found = await inspect(url, ("x",))

    assert (found.models, found.version, found.context, found.is_ours) == (("x",), "b1-abc", 1024, False)


async def test_a_server_that_says_little() -> None:
    async with _server(v1_models=_json({"data": []})) as url:
        assert (await inspect(url, ("named",))).models == ("named",)
        with pytest.raises(ServerUnfit, match="lists no models"):
            await inspect(url, ())


async def test_a_model_that_is_not_there() -> None:
    async with _server(v1_models=_json(MODELS)) as url:
        with pytest.raises(ServerUnfit, match="has no model 'z'; it has a, b, c"):
            await inspect(url, ("z",))


async def test_a_server_that_wants_a_key() -> None:
    async with _server(v1_models=_json({"error": "no"}, 401)) as url:
        with pytest.raises(ServerUnfit, match="wants a key"):
            await inspect(url, ())


def _counting(fixed: int, per_word: int, *, longest: int = 10**9, usage: bool = True) -> Any:
    """A chat endpoint that counts tokens so; longer prompts are refused."""

    async def answer(request: Request) -> Response:
        body = await request.json()
        tokens = fixed + per_word * len(body["messages"][-1]["content"].split())
        if tokens > longest:
            return JSONResponse({"error": {"message": "too long"}}, 400)

        async def events() -> AsyncIterator[str]:
            yield 'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"length"}]}\n\n'
            if usage:
                yield f'data: {{"choices":[],"usage":{{"prompt_tokens":{tokens},"completion_tokens":1}}}}\n\n'
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return answer


@pytest.mark.parametrize("longest", [10**9, 200])
async def test_a_ruler_is_read_from_the_servers_own_counts(longest: int) -> None:
    async with _server(v1_chat_completions=_counting(31, 2, longest=longest)) as url:
        ruler = await fit_ruler(Target(url, "m"), "", "salt")

    assert ruler.fixed == pytest.approx(31)
    assert ruler.per_word == pytest.approx(2)


async def test_a_server_that_tells_no_usage_can_not_be_read() -> None:
    async with _server(v1_chat_completions=_counting(31, 2, usage=False)) as url:
        with pytest.raises(ServerUnfit, match="tells no usage"):
            await fit_ruler(Target(url, "m"), "", "salt")


async def test_a_server_that_does_not_answer() -> None:
    async with _server(v1_chat_completions=_json({"error": "down"}, 500)) as url:
        with pytest.raises(ServerUnfit, match="http_5xx"):
            await fit_ruler(Target(url, "m"), "", "salt")


async def test_a_server_is_watched_and_its_end_of_work_is_seen() -> None:
    looks = 0

    async def status(request: Request) -> Response:
        nonlocal looks
        looks += 1
        idle = {**STATUS["models"][0], "busy_slots": 0, "waiting": 0, "reserved_cells": 0}
        return JSONResponse(STATUS if looks < 4 else {"models": [idle]})

    async with _server(v1_slotwise_status=status) as url, watching(url, "") as watch:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.watch, 0.0)
            await eventually(lambda: watch.samples)
            tasks.cancel_scope.cancel()
        sample = watch.samples[0]
        assert (sample.busy_slots, sample.slots, sample.waiting) == (3, 8, 1)
        assert (sample.cells_used, sample.cells_reserved, sample.kv_cells) == (15, 37, 150)

        looks = 0
        assert 0.04 < await watch.until_idle() < 5
        assert looks == 4
