"""Answers under way: whose lease each is, what workers call it, what they are told of it, and what they say.

Owns the leases of requests that are not over, and their names. What workers say becomes events for the core, in the
order in which it was said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence

from slotwise.errors import ContextLengthExceeded, InvalidRequest, SlotwiseError, WorkerFailed
from slotwise.request import ChatPrompt, FinishReason, GenerationRequest, TokenChunk, Usage, input_name
from slotwise.scheduler import events as ev
from slotwise.scheduler.counters import ModelCounters
from slotwise.scheduler.lease import Lease
from slotwise.scheduler.names import SequenceNames
from slotwise.workers import protocol
from slotwise.workers.protocol import Delta, StepReport

logger = logging.getLogger(__name__)


class Answers:
    """Between leases and workers. `post`: where events go."""

    def __init__(self, post: Callable[[ev.Event], None], clock: Callable[[], float]) -> None:
        self._post = post
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._names = SequenceNames()

    @property
    def leases(self) -> Mapping[str, Lease]:
        """By request."""
        return self._leases

    # ---- leases

    def open(self, lease: Lease) -> None:
        """Raises ValueError: another one has its id."""
        request_id = lease.request.request_id
        if request_id in self._leases:
            raise ValueError(f"request id {request_id!r} is in use")
        self._leases[request_id] = lease

    def leave(self, lease: Lease) -> None:
        """Whoever asked has gone; nothing happens where it was over before."""
        request_id = lease.request.request_id
        if self._leases.get(request_id) is lease:
            del self._leases[request_id]
            self._post(ev.RequestCancelled(request_id))

    def fail(self, request_id: str, error: SlotwiseError) -> None:
        if lease := self._leases.pop(request_id, None):
            if isinstance(error, ContextLengthExceeded) and not isinstance(lease.request.prompt, ChatPrompt):
                error.param = "prompt"  # the scheduler does not know what a prompt is
            lease.fail(error)

    def over(self, request_id: str) -> None:
        """Nothing more is expected of it, wherever it is."""
        self._names.over(request_id)

    # ---- what workers are told

    def prepare(self, request_id: str, worker_id: int, *, several: bool) -> protocol.Prepare:
        """`several`: workers of its model, where it may go on."""
        lease = self._leases[request_id]
        lease.worker_id = worker_id
        if lease.waits_for_load and lease.loaded_at is None:
            lease.loaded_at = self._clock()
        request = lease.request
        name = self._names.new(worker_id, request_id)
        return protocol.Prepare(
            name, request.prompt, several and request.examine is None, request.examine, request.constraint
        )

    def start(
        self, grant: ev.Grant, scope: Callable[[GenerationRequest], str], counters: ModelCounters, alive: Container[int]
    ) -> protocol.StartSequence:
        """`alive`: workers whose processes are not gone."""
        lease = self._leases[grant.request_id]
        if lease.granted_at is None:
            lease.granted_at = self._clock()
        elif lease.started_on in alive:
            counters.moved_total += 1
        else:
            counters.continued_total += 1
        if lease.worker_id is not None and lease.worker_id != grant.worker_id:
            self._names.left(lease.worker_id, grant.request_id)
        name = self._names.of(grant.worker_id, grant.request_id)
        prompt, lengths = (lease.prompt, lease.lengths) if name is None else ((), ())
        name = name or self._names.new(grant.worker_id, grant.request_id)
        lease.worker_id = lease.started_on = grant.worker_id
        request = lease.request
        return protocol.StartSequence(
            name,
            grant.max_output_tokens,
            request.sampling,
            request.stop,
            request.ignore_eos,
            scope=scope(request),
            generated=tuple(lease.generated),
            cells=grant.cells,
            prompt=prompt,
            lengths=lengths,
            inputs_done=lease.inputs_done,
            asker=protocol.Asker(request.key, request.user, grant.weight, grant.level),
            top_logprobs=request.top_logprobs,
            special_text=request.special_text,
            constraint=request.constraint,
        )

    def name(self, worker_id: int, request_id: str) -> str:
        """How the worker calls it; where it is gone, nobody reads it."""
        return self._names.of(worker_id, request_id) or request_id

    # ---- what workers say

    def prepared(self, report: protocol.Prepared) -> None:
        """Also of one that was cancelled: the tokenizer is free again."""
        request_id = self._names.request_of(report.request_id)
        longest = None
        if (lease := self._leases.get(request_id)) is not None:
            lease.prompt_tokens = report.prompt_tokens
            lease.prompt, lease.lengths = report.tokens, report.lengths
            if lease.request.special_text and not lease.generated:
                lease.opening = report.opening
            if report.examined is not None:
                usage = Usage(report.prompt_tokens, 0)
                told = TokenChunk(
                    text="", tokens=0, finish_reason=FinishReason.STOP, usage=usage, examined=report.examined
                )
                self._push(lease, told)
                self._leases.pop(request_id, None)
            elif report.lengths:
                longest = _longest(lease, report.lengths)
        self._post(ev.RequestPriced(request_id, report.prompt_tokens, longest))

    def refused(self, report: protocol.PrepareFailed) -> None:
        error = InvalidRequest(report.message, param=report.param, code=report.code)
        self._post(ev.PrepareRefused(self._names.request_of(report.request_id), error))

    def stepped(self, worker_id: int, report: StepReport, counters: ModelCounters) -> None:
        outputs, inputs = [], []
        # Before the core hears of the step: it may have a request go on elsewhere, after what it has by now.
        for delta in report.deltas:
            request_id = self._names.request(worker_id, delta.request_id)
            if request_id is not None:
                if delta.tokens:
                    outputs.append((request_id, len(delta.tokens)))
                if delta.vectors:
                    inputs.append((request_id, len(delta.vectors)))
                self._deliver(request_id, delta, counters)
        took = report.decode_rows, report.prefill_tokens, tuple(outputs), report.seconds, report.drafted
        self._post(ev.StepDone(worker_id, *took, tuple(inputs)))

    def gone(self, worker_id: int) -> None:
        """The worker's process is gone."""
        self._names.gone(worker_id)

    def _deliver(self, request_id: str, delta: Delta, counters: ModelCounters) -> None:
        lease = self._leases.get(request_id)
        counters.output_tokens_total += len(delta.tokens)
        if delta.finish_reason is None:
            if lease is not None:
                lease.generated += delta.tokens
                lease.inputs_done += len(delta.vectors)
                self._push(lease, _chunk(lease, delta))
            return
        usage = delta.usage
        if usage is not None:
            counters.prompt_tokens_total += usage.prompt_tokens
            counters.cached_tokens_total += usage.cached_tokens
        complete = delta.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if not complete:
            self.fail(request_id, _failure(delta))
        elif lease is not None:
            self._push(lease, _chunk(lease, delta))
        self._leases.pop(request_id, None)
        spent = usage or Usage(0, 0)
        self._post(
            ev.SequenceFinished(
                request_id,
                spent.prompt_tokens,
                spent.cached_tokens,
                spent.completion_tokens,
                complete,
                failed=delta.finish_reason is FinishReason.ERROR,
            )
        )

    def _push(self, lease: Lease, chunk: TokenChunk) -> None:
        if not lease.push(chunk):
            logger.warning("%s: the client does not read; its request is cancelled", lease.request.request_id)
            self.leave(lease)


def _failure(delta: Delta) -> SlotwiseError:
    """Of an answer that ended with an error."""
    if delta.refused:
        return InvalidRequest(f"The answer can not go on: {delta.error}.", code="invalid_schema")
    return WorkerFailed(f"The model failed during the answer: {delta.error}.")


def _chunk(lease: Lease, delta: Delta) -> TokenChunk:
    """What a step added to an answer, and before its first word what the template has written of it."""
    opening, lease.opening = lease.opening, ""
    return TokenChunk(
        text=opening + delta.text,
        tokens=len(delta.tokens),
        finish_reason=delta.finish_reason,
        usage=delta.usage,
        logprobs=lease.told(delta.logprobs, delta.logprobs_told),
        stopped_by=delta.stopped_by,
        vectors=delta.vectors,
    )


def _longest(lease: Lease, lengths: Sequence[int]) -> ev.Longest:
    """Of a prompt's inputs."""
    tokens = max(lengths)
    index = lengths.index(tokens)
    return ev.Longest(tokens, index, input_name(lease.request.prompt, index))
