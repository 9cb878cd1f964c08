"""The ends of a lease that the dispatcher's tests do not reach."""

import anyio
import pytest

from slotwise.memory.accounts import on_host
from slotwise.request import FinishReason, GenerationRequest, TextPrompt, TokenChunk, TokenLogprob
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.dispatcher import Dispatcher
from slotwise.scheduler.lease import MAX_UNREAD_BYTES, ClientTooSlow, Lease
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from slotwise.workers.protocol import LoadModel
from tests.fakes import FakePool

LAST = TokenChunk(text="x", tokens=1, finish_reason=FinishReason.STOP)
REQUEST = GenerationRequest(request_id="a", model="m", prompt=TextPrompt("hi"), max_output_tokens=10)


def _lease() -> Lease:
    return Lease(REQUEST, submit=lambda lease: None, leave=lambda lease: None, clock=lambda: 0.0)


async def test_reading_past_the_last_chunk_ends_instead_of_waiting_for_ever() -> None:
    async with _lease() as lease:
        lease.push(LAST)
        assert await lease.next_chunk() is LAST
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await lease.next_chunk()


async def test_iterating_over_an_answer_that_was_read_gives_nothing() -> None:
    async with _lease() as lease:
        lease.push(LAST)
        with anyio.fail_after(5):
            assert [chunk async for chunk in lease] == [LAST]
            assert [chunk async for chunk in lease] == []


async def test_the_bound_on_unread_text_is_in_bytes() -> None:
    async with _lease() as lease:
        chunk = TokenChunk(text="\N{GRINNING FACE}" * 1000, tokens=1)
        pushed = 0
        while lease.push(chunk) and pushed < 1000:
            pushed += 1
        assert pushed == MAX_UNREAD_BYTES // 4000
        await lease.next_chunk()
        with pytest.raises(ClientTooSlow):
            await lease.next_chunk()


async def test_what_is_read_late_keeps_its_order_and_log_probabilities_count_as_unread() -> None:
    async with _lease() as lease:
        for number in range(3):
            lease.push(TokenChunk(text="ab", tokens=2, logprobs=(_logprob(2 * number), _logprob(2 * number + 1))))
        chunk = await lease.next_chunk()
        assert [one.token for one in chunk.logprobs] == [b"%d" % number for number in range(6)]
        pushed = 0
        while lease.push(TokenChunk(text="a", tokens=1, logprobs=(_logprob(0, top=19),))):
            pushed += 1
        assert pushed == MAX_UNREAD_BYTES // 21


def _logprob(number: int, top: int = 0) -> TokenLogprob:
    return TokenLogprob(b"%d" % number, -0.1, ((b"x", -1.0),) * top)


async def test_everybody_who_waits_for_idleness_is_told() -> None:
    pool = FakePool()
    core = Scheduler(SchedulerConfig(), {"m": ModelSpec(on_host(10), 2, 100, 50)})
    dispatcher = Dispatcher(core, pool, {"m": [LoadModel("m", "fake:", 2, 50)]})
    pool.listener = dispatcher
    with anyio.fail_after(5):
        async with dispatcher.lease(REQUEST), anyio.create_task_group() as tasks:
            tasks.start_soon(dispatcher.wait_idle)
            tasks.start_soon(dispatcher.wait_idle)
            await anyio.wait_all_tasks_blocked()
            pool.ready()
            pool.prepared("a")
            pool.end("a")
