"""Leases over the dispatcher: tokens arrive, leaving gives back, failures are told once."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import MappingProxyType

import anyio
import msgspec
import pytest

from slotwise.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound, ServerDraining, WorkerFailed
from slotwise.memory.accounts import on_host
from slotwise.memory.footprint import HOST
from slotwise.request import (
    ChatMessage,
    ChatPrompt,
    Constraint,
    Examine,
    Examined,
    FinishReason,
    GenerationRequest,
    TextPrompt,
    TokenLogprob,
    Usage,
)
from slotwise.scheduler import events as ev
from slotwise.scheduler.account import Bound
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.dispatcher import Dispatcher
from slotwise.scheduler.lease import MAX_UNREAD_BYTES, ClientTooSlow
from slotwise.scheduler.measured import Measured, WorkerMemory
from slotwise.scheduler.policy import KeyPolicy, Policies
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from slotwise.scheduler.status import Reservation
from slotwise.workers.protocol import CancelSequence, Delta, LoadModel, Prepare, StartSequence, StepReport
from tests.fakes import FakePool


def _request(name: str, model: str = "m", *, stream: bool = True, key: str = "") -> GenerationRequest:
    prompt = TextPrompt("hi")
    return GenerationRequest(request_id=name, model=model, prompt=prompt, max_output_tokens=10, stream=stream, key=key)


@asynccontextmanager
async def _dispatcher(
    *,
    ready: bool = True,
    isolate_keys: bool = False,
    policies: Policies = MappingProxyType({}),
    on_usage: Callable[[ev.BookUsage], None] = lambda usage: None,
) -> AsyncIterator[tuple[Dispatcher, FakePool]]:
    pool = FakePool()
    core = Scheduler(SchedulerConfig(), {"m": ModelSpec(on_host(10), 2, 100, 50)})
    loads = {"m": [LoadModel("m", "fake:", 2, 50)]}
    dispatcher = Dispatcher(core, pool, loads, isolate_keys=isolate_keys, policies=policies, on_usage=on_usage)
    pool.listener = dispatcher
    if ready:
        dispatcher.preload("m")
        pool.ready()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatcher.run)
            yield dispatcher, pool
            dispatcher.check_invariants()
            tasks.cancel_scope.cancel()


async def test_a_request_is_prepared_started_and_streamed() -> None:
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a")) as lease:
        assert pool.commands(Prepare) == ["a"]
        assert lease.prompt_tokens == 0
        pool.prepared("a")
        assert lease.prompt_tokens > 0
        assert pool.commands(StartSequence) == ["a"]
        pool.delta("a", "Hel")
        assert (await lease.next_chunk()).text == "Hel"
        pool.delta("a", "l")
        pool.delta("a", "o")
        pool.end("a")
        chunks = [chunk async for chunk in lease]
        assert "".join(chunk.text for chunk in chunks) == "lo"
        assert chunks[-1].finish_reason is FinishReason.STOP
        assert sum(chunk.tokens for chunk in chunks) == 3
        await dispatcher.wait_idle()


async def test_a_request_knows_when_the_model_that_it_waited_for_was_there() -> None:
    async with _dispatcher(ready=False) as (dispatcher, pool):
        async with dispatcher.lease(_request("a")) as first:
            assert first.loaded_at is None
            pool.ready()
            assert first.loaded_at is not None
        async with dispatcher.lease(_request("b")) as second:
            assert pool.commands(Prepare) == ["a", "b"]
            assert second.loaded_at is None, "it was there"


async def test_a_model_that_is_told_to_go_answers_first() -> None:
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a")) as lease:
        pool.prepared("a")
        dispatcher.unload("m")
        assert pool.stopped == []
        pool.end("a")
        assert [chunk.finish_reason async for chunk in lease] == [FinishReason.STOP]
        assert pool.stopped == [1]
        dispatcher.worker_lost(1, "exited with code 0")
        assert dispatcher.status()[0].status.state == "unloaded"


@pytest.mark.parametrize(("isolate_keys", "scopes"), [(False, ["", ""]), (True, ["key alice", "key bob"])])
async def test_keys_share_what_they_computed_unless_they_are_isolated(isolate_keys: bool, scopes: list[str]) -> None:
    assert await _scopes({}, "alice", "bob", isolate_keys=isolate_keys) == scopes


async def test_keys_of_a_group_share_with_each_other_only() -> None:
    law = {"carol": KeyPolicy(group="law"), "dora": KeyPolicy(group="law")}

    assert await _scopes(law, "carol", "dora") == ["group law", "group law"]
    assert await _scopes(law, "alice", "dora") == ["", "group law"]


async def _scopes(policies: Policies, *keys: str, isolate_keys: bool = False) -> list[str]:
    """Of a request of each of two keys."""
    async with (
        _dispatcher(isolate_keys=isolate_keys, policies=policies) as (dispatcher, pool),
        dispatcher.lease(_request("a", key=keys[0])),
        dispatcher.lease(_request("b", key=keys[1])),
    ):
        for name in "ab":
            pool.prepared(name)
        started = [command for _, command in pool.sent if isinstance(command, StartSequence)]
        for name in "ab":
            pool.end(name)
    return [command.scope for command in started]


async def test_a_refusal_is_raised_by_the_first_chunk() -> None:
    async with _dispatcher() as (dispatcher, _), dispatcher.lease(_request("a", "nope")) as lease:
        with pytest.raises(ModelNotFound):
            await lease.next_chunk()


async def test_leaving_while_waiting_for_a_load_takes_the_request_out() -> None:
    async with _dispatcher(ready=False) as (dispatcher, pool):
        async with dispatcher.lease(_request("a")):
            assert dispatcher.status()[0].status.waiting == 1
        assert dispatcher.status()[0].status.waiting == 0
        pool.ready()
        assert pool.commands(Prepare) == []


async def test_leaving_while_running_cancels_and_the_slot_returns_with_the_workers_word() -> None:
    async with _dispatcher() as (dispatcher, pool):
        async with dispatcher.lease(_request("a")):
            pool.prepared("a")
        assert pool.commands(CancelSequence) == ["a"]
        assert dispatcher.status()[0].status.busy_slots == 1
        pool.end("a", FinishReason.CANCELLED)
        assert dispatcher.status()[0].status.busy_slots == 0
        await dispatcher.wait_idle()


async def test_a_death_before_the_first_token_is_a_pause() -> None:
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a")) as lease:
        pool.prepared("a")
        pool.hears().worker_lost(1, "killed")
        pool.ready(2)
        pool.prepared("a", worker_id=2)
        pool.delta("a", "again", worker_id=2)
        assert (await lease.next_chunk()).text == "again"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_death_in_mid_answer_is_a_pause_too(stream: bool) -> None:
    """The next worker is told what was said, and says what follows."""
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a", stream=stream)) as lease:
        pool.prepared("a")
        pool.delta("a", "half")
        pool.hears().worker_lost(1, "killed by signal 9 (SIGKILL)", from_outside=True)
        pool.ready(2)
        pool.prepared("a", worker_id=2)
        pool.delta("a", " and half", worker_id=2)
        pool.end("a", worker_id=2)

        assert (await lease.next_chunk()).text == "half and half"
        started = [command for _, command in pool.sent if isinstance(command, StartSequence)]
        assert [command.generated for command in started] == [(), (120,)]


async def test_what_an_answer_is_held_to_is_told_to_each_worker_that_has_it() -> None:
    constraint = Constraint("start: /[0-9]+/", "format")
    request = msgspec.structs.replace(_request("a"), constraint=constraint)
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(request):
        pool.prepared("a")
        pool.delta("a", "1")
        pool.hears().worker_lost(1, "killed")
        pool.ready(2)
        pool.prepared("a", worker_id=2)

        told = [command for _, command in pool.sent if isinstance(command, Prepare | StartSequence)]
        assert [command.constraint for command in told] == [constraint] * 4


async def test_what_the_template_has_written_of_an_answer_is_said_once_and_only_to_those_who_want_it() -> None:
    """Also where a worker dies before the first token, or after it."""
    wants = msgspec.structs.replace(_request("a"), special_text=True)
    async with (
        _dispatcher() as (dispatcher, pool),
        dispatcher.lease(wants) as lease,
        dispatcher.lease(_request("b")) as other,
    ):
        for worker_id in (1, 2, 3):
            pool.prepared("a", worker_id=worker_id, opening="<think>\n")
            pool.prepared("b", worker_id=worker_id, opening="<think>\n")
            if worker_id > 1:
                for name in "ab":
                    pool.delta(name, "hm ", worker_id)
            pool.hears().worker_lost(worker_id, "killed", from_outside=True)
            if worker_id < 3:
                dispatcher._post(ev.Tick())
                await pool.started(worker_id + 1)
                pool.ready(worker_id + 1)
        assert (await lease.next_chunk()).text == "<think>\nhm hm "
        assert (await other.next_chunk()).text == "hm hm "


async def test_log_probabilities_are_told_with_their_text_and_outlive_a_worker() -> None:
    one, two, three = (TokenLogprob(name, -0.5) for name in (b"1", b"2", b"3"))
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a")) as lease:
        pool.prepared("a")
        pool.delta("a", "1", logprobs=(one,), told=1)
        pool.delta("a", "", logprobs=(two,))
        assert (await lease.next_chunk()).logprobs == (one,)
        pool.hears().worker_lost(1, "killed", from_outside=True)
        pool.ready(2)
        pool.prepared("a", worker_id=2)
        pool.delta("a", "23", 2, logprobs=(three,), told=2)
        assert (await lease.next_chunk()).logprobs == (two, three)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_that_is_only_counted_is_told_in_one_chunk_and_never_started(stream: bool) -> None:
    usages: list[ev.BookUsage] = []
    counted = msgspec.structs.replace(_request("a", stream=stream), examine=Examine(tokens=True))
    async with _dispatcher(on_usage=usages.append) as (dispatcher, pool), dispatcher.lease(counted) as lease:
        (command,) = [command for _, command in pool.sent if isinstance(command, Prepare)]
        assert command.examine == Examine(tokens=True)
        pool.prepared("a", 3, examined=Examined(3, (7, 8, 9)))
        chunk = await lease.next_chunk()
        await dispatcher.wait_idle()
        assert pool.commands(StartSequence) == []

    assert (chunk.examined, chunk.usage) == (Examined(3, (7, 8, 9)), Usage(3, 0))
    assert chunk.finish_reason is FinishReason.STOP
    (usage,) = usages
    assert (usage.outcome, usage.prompt_tokens, usage.output_tokens) == ("completed", 0, 0)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_prompt_that_is_only_counted_outlives_a_worker_and_ends_once(killed: bool) -> None:
    counted = msgspec.structs.replace(_request("a"), examine=Examine())
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(counted) as lease:
        pool.hears().worker_lost(1, "killed", from_outside=killed)
        pool.ready(2)
        pool.prepared("a", 3, worker_id=2, examined=Examined(3))
        pool.hears().worker_lost(2, "killed", from_outside=killed)
        assert [chunk.examined async for chunk in lease] == [Examined(3)]
        await dispatcher.wait_idle()


@pytest.mark.parametrize(
    ("reason", "from_outside", "cause"),
    [
        ("killed by signal 6 (SIGABRT): GGML_ASSERT", False, "crash"),
        ("exited with code 1", False, "crash"),
        ("killed by signal 9 (SIGKILL)", True, "outside"),
        ("a step made no progress for 300 s: Fatal Python error", False, "stall"),
        ("it sent bytes that are not a report (x)", False, "other"),
    ],
)
async def test_a_death_is_counted_by_its_cause_and_what_goes_on_after_it(
    reason: str, from_outside: bool, cause: str
) -> None:
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a")):
        pool.prepared("a")
        pool.hears().worker_lost(1, reason, from_outside=from_outside)
        pool.ready(2)
        pool.prepared("a", worker_id=2)
        pool.end("a", worker_id=2)
        counters = dispatcher.status()[0].counters

    assert {name for name, deaths in counters.deaths_total.items() if deaths} == {cause}
    assert counters.continued_total == 1


async def test_a_worker_that_was_asked_to_stop_has_not_died() -> None:
    async with _dispatcher() as (dispatcher, pool):
        pool.hears().worker_lost(1, "exited with code 0")
        counters = dispatcher.status()[0].counters

    assert not any(counters.deaths_total.values())


async def test_what_a_worker_takes_stands_beside_its_reservation_until_it_is_gone() -> None:
    async with _dispatcher() as (dispatcher, pool):
        dispatcher.workers_measured({1: Measured({HOST: 7}, {HOST: 9}), 5: Measured({HOST: 3})})
        (worker,) = dispatcher.memory().workers
        assert worker == WorkerMemory(Reservation(1, "m", 0, {HOST: 10}), Measured({HOST: 7}, {HOST: 9}))

        pool.hears().worker_lost(1, "killed")
        dispatcher.workers_measured({1: Measured({HOST: 7})})
        (worker,) = dispatcher.memory().workers
        assert worker == WorkerMemory(Reservation(2, "m", 0, {HOST: 10}), Measured({}))


async def test_what_a_request_took_is_told_once_it_is_over() -> None:
    usages: list[ev.BookUsage] = []
    async with _dispatcher(on_usage=usages.append) as (dispatcher, pool):
        async with dispatcher.lease(_request("a")):
            pool.prepared("a")
            pool.delta("a", "x")
            pool.end("a")
        async with dispatcher.lease(_request("b", model="none")) as lease:
            with pytest.raises(ModelNotFound):
                await lease.next_chunk()

    assert [(usage.request_id, usage.outcome, usage.output_tokens) for usage in usages] == [("a", "completed", 3)]


async def test_an_answer_that_fails_is_booked_as_failed_with_what_was_heard_of_it() -> None:
    usages: list[ev.BookUsage] = []
    async with _dispatcher(on_usage=usages.append) as (dispatcher, pool), dispatcher.lease(_request("a")) as lease:
        pool.prepared("a")
        pool.delta("a", "x")
        delta = Delta("a", finish_reason=FinishReason.ERROR, error="no cells")
        pool.hears().worker_report(1, StepReport((delta,)))
        assert (await lease.next_chunk()).text == "x"
        with pytest.raises(WorkerFailed):
            await lease.next_chunk()

    assert [(usage.outcome, usage.prompt_tokens, usage.output_tokens) for usage in usages] == [("failed", 5, 1)]


async def test_an_answer_that_its_own_constraint_ends_is_the_requests_fault() -> None:
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a")) as lease:
        pool.prepared("a")
        delta = Delta("a", finish_reason=FinishReason.ERROR, error="nothing is allowed", refused=True)
        pool.hears().worker_report(1, StepReport((delta,)))
        with pytest.raises(InvalidRequest, match="nothing is allowed") as refused:
            await lease.next_chunk()

    assert refused.value.code == "invalid_schema"


async def test_a_failed_sequence_fails_its_lease_alone() -> None:
    async with (
        _dispatcher() as (dispatcher, pool),
        dispatcher.lease(_request("a")) as bad,
        dispatcher.lease(_request("b")) as good,
    ):
        pool.prepared("a")
        pool.prepared("b")
        pool.end("a", FinishReason.ERROR)
        pool.delta("b", "fine")
        with pytest.raises(WorkerFailed):
            await bad.next_chunk()
        assert (await good.next_chunk()).text == "fine"


async def test_who_does_not_read_loses_the_request_and_nobody_else_does() -> None:
    async with _dispatcher() as (dispatcher, pool), dispatcher.lease(_request("a")) as lease:
        pool.prepared("a")
        for _ in range(MAX_UNREAD_BYTES // 1000 + 2):
            pool.delta("a", "x" * 1000)
        assert pool.commands(CancelSequence) == ["a"]
        assert len((await lease.next_chunk()).text) <= MAX_UNREAD_BYTES
        with pytest.raises(ClientTooSlow):
            await lease.next_chunk()


async def test_a_drain_refuses_what_waits_and_idles_when_the_rest_ends() -> None:
    async with _dispatcher() as (dispatcher, pool):
        async with dispatcher.lease(_request("a")) as running:
            pool.prepared("a")
            pool.delta("a", "x")
            async with dispatcher.lease(_request("b")) as waiting:
                dispatcher.drain()
                with pytest.raises(ServerDraining):
                    await waiting.next_chunk()
            pool.end("a")
            assert (await running.next_chunk()).finish_reason is FinishReason.STOP
        await dispatcher.wait_idle()


async def test_a_restart_after_back_off_happens_without_anybody_asking() -> None:
    async with _dispatcher() as (dispatcher, pool):
        pool.hears().worker_lost(1, "killed")
        pool.ready(2)
        pool.hears().worker_lost(2, "killed again")
        assert 3 not in pool.loads
        await pool.started(3)  # after restart_backoff_s, on the dispatcher's own clock


async def test_a_prompt_that_is_too_long_is_named_as_the_client_names_it() -> None:
    for prompt, param in ((TextPrompt("hi"), "prompt"), (ChatPrompt((ChatMessage("user", "hi"),)), "messages")):
        request = msgspec.structs.replace(_request("a"), prompt=prompt)
        async with _dispatcher() as (dispatcher, pool), dispatcher.lease(request) as lease:
            pool.prepared("a", tokens=10_000)
            with pytest.raises(ContextLengthExceeded) as caught:
                await lease.next_chunk()
        assert caught.value.param == param


async def test_steps_are_counted_beside_what_was_predicted_for_them() -> None:
    async with _dispatcher() as (dispatcher, pool):
        for report in (
            StepReport((), decode_rows=2, seconds=0.5),  # nothing was known
            StepReport((), decode_rows=2, seconds=0.3, predicted=0.2),
            StepReport((), prefill_tokens=9, seconds=0.4, predicted=0.6),
        ):
            pool.hears().worker_report(1, report)
        counters = dispatcher.status()[0].counters

    assert (counters.steps_total, counters.answer_steps_total) == (3, 2)
    assert counters.slow_steps_total == 1, "over 0.35 s, with answers"
    assert counters.predicted_steps_total == 2
    assert counters.step_predicted_seconds_total == pytest.approx(0.8)
    assert counters.predicted_steps_seconds_total == pytest.approx(0.7)
    assert counters.step_prediction_error_seconds_total == pytest.approx(0.3)


async def test_loads_are_counted_when_they_are_over() -> None:
    async with _dispatcher(ready=False) as (dispatcher, pool):
        dispatcher.preload("m")
        counters = dispatcher.status()[0].counters
        assert counters.loads_total == 0
        pool.ready()
        assert counters.loads_total == 1
        assert counters.load_seconds_total > 0
        dispatcher.worker_lost(1, "killed")


async def test_a_status_tells_what_bound_a_model_until_now() -> None:
    async with _dispatcher() as (dispatcher, _):
        began = dispatcher.status()[0].account.seconds
        await anyio.sleep(0.01)
        account = dispatcher.status()[0].account

    assert account.seconds >= began + 0.01
    assert account.bound[Bound.NOTHING] == pytest.approx(account.seconds)
