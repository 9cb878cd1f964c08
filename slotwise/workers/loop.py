"""The step loop of a worker: commands in, one batch per step, one report per step out.

Rules:
1. A started sequence ends in exactly one terminal delta, whatever happens to it.
2. Its sequence id and cells are given back in the same call that reports the end.
3. A command is applied between two steps, never inside one: a cancel costs at most one further step.
4. Nothing here knows pipes, threads or clocks other than the step timer it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slotwise.request import FinishReason, Usage
from slotwise.workers.batch import StepPlan, plan_step
from slotwise.workers.cells import Cells, CellsExhausted
from slotwise.workers.model import Model, Sampler
from slotwise.workers.protocol import Delta, StartSequence, StepReport
from slotwise.workers.text import TextStream


class ModelBroken(Exception):
    """Raised when the model fails twice in a row: the process should end and its requests be replayed elsewhere."""


@dataclass(slots=True)
class Sequence:
    """One running request inside the context."""

    request_id: str
    seq_id: int
    tokens: list[int]
    prompt_tokens: int
    max_output_tokens: int
    sampler: Sampler
    text: TextStream
    end_tokens: frozenset[int]
    stored: int = 0
    output_tokens: int = field(default=0)


class StepLoop:
    """Continuous batching over one model."""

    def __init__(self, model: Model, *, timer: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._timer = timer
        self._cells = Cells(model.info.kv_cells, model.info.slots)
        self._running: list[Sequence] = []
        self._prompts: dict[str, list[int]] = {}
        #: Ends that happened between steps (cancels, refusals), told with the next report.
        self._ended: list[Delta] = []
        self._failures = 0

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to tell."""
        return not self._running and not self._ended

    def prepared(self, request_id: str, tokens: list[int]) -> None:
        """Keep a prompt's tokens until it is started or cancelled."""
        self._prompts[request_id] = tokens

    def start(self, command: StartSequence) -> None:
        """Begin a prepared prompt; it takes part from the next step on."""
        tokens = self._prompts.pop(command.request_id, None)
        if tokens is None:
            self._ended.append(_failure(command.request_id, "the prompt was not prepared on this worker"))
            return
        try:
            # The last output token is never stored: nothing comes after it.
            seq_id = self._cells.acquire(len(tokens) + command.max_output_tokens)
        except CellsExhausted as error:
            self._ended.append(_failure(command.request_id, str(error)))
            return
        sampler = self._model.new_sampler(command.sampling, prompt=tokens, ignore_eos=command.ignore_eos)
        self._running.append(
            Sequence(
                request_id=command.request_id,
                seq_id=seq_id,
                tokens=list(tokens),
                prompt_tokens=len(tokens),
                max_output_tokens=command.max_output_tokens,
                sampler=sampler,
                text=TextStream(command.stop),
                end_tokens=frozenset() if command.ignore_eos else self._model.vocabulary.end_tokens,
            )
        )

    def cancel(self, request_id: str) -> None:
        """End a running sequence, or forget a prepared prompt. Anything else is not an error."""
        self._prompts.pop(request_id, None)
        for sequence in self._running:
            if sequence.request_id == request_id:
                self._ended.append(self._end(sequence, FinishReason.CANCELLED))
                return

    def step(self) -> StepReport:
        """Compute one batch (if anything runs) and report what it did.

        Raises:
            ModelBroken: the second failure in a row.
        """
        started = self._timer()
        deltas, self._ended = self._ended, []
        no_cells = 0
        plan = plan_step(self._running, self._model.n_batch)
        if plan.rows:
            code = self._model.decode(plan.rows)
            if code == 1:
                no_cells = 1
                plan, code = self._retreat(deltas)
            if code == 0:
                self._failures = 0
                self._advance(plan, deltas)
            else:
                self._repair(code, deltas)
        return StepReport(
            deltas=tuple(deltas),
            decode_rows=plan.decode_rows,
            prefill_tokens=plan.prefill_tokens,
            seconds=self._timer() - started,
            cells_used=self._cells.used,
            no_cells=no_cells,
        )

    def check_invariants(self) -> None:
        self._cells.check_invariants()
        assert len(self._running) <= self._cells.slots
        assert len({sequence.seq_id for sequence in self._running}) == len(self._running)
        for sequence in self._running:
            assert 0 <= sequence.stored < len(sequence.tokens)
            assert sequence.output_tokens == len(sequence.tokens) - sequence.prompt_tokens

    def close(self) -> None:
        """End everything that runs, without a report: the process is about to end."""
        for sequence in list(self._running):
            self._end(sequence, FinishReason.CANCELLED)

    # ---- after a decode

    def _advance(self, plan: StepPlan, deltas: list[Delta]) -> None:
        sequences = list(self._running)
        for share in plan.shares:
            sequence = sequences[share.index]
            sequence.stored += share.count
            self._cells.occupy(sequence.seq_id, share.count)
            if share.row is not None:
                deltas.append(self._accept(sequence, sequence.sampler.sample(share.row)))

    def _accept(self, sequence: Sequence, token: int) -> Delta:
        sequence.tokens.append(token)
        sequence.output_tokens += 1
        if token in sequence.end_tokens:
            return self._end(sequence, FinishReason.STOP, text=sequence.text.finish())
        text = sequence.text.push(self._model.vocabulary.piece(token))
        if sequence.text.stopped:
            return self._end(sequence, FinishReason.STOP, text=text)
        if sequence.output_tokens >= sequence.max_output_tokens:
            return self._end(sequence, FinishReason.LENGTH, text=text + sequence.text.finish())
        return Delta(sequence.request_id, text=text, tokens=1)

    def _end(self, sequence: Sequence, reason: FinishReason, *, text: str = "", error: str | None = None) -> Delta:
        self._running.remove(sequence)
        self._model.remove(sequence.seq_id)
        self._cells.release(sequence.seq_id)
        sequence.sampler.close()
        usage = Usage(prompt_tokens=sequence.prompt_tokens, completion_tokens=sequence.output_tokens)
        tokens = 1 if reason in (FinishReason.STOP, FinishReason.LENGTH) else 0
        return Delta(sequence.request_id, text=text, tokens=tokens, finish_reason=reason, usage=usage, error=error)

    # ---- when a decode did not work

    def _retreat(self, deltas: list[Delta]) -> tuple[StepPlan, int]:
        """No cells (code 1): the reservations and the context disagree, which is a bug of ours and is counted.

        1. Without prompts, so that those being answered go on. 2. Only the oldest. 3. End the youngest and try again.
        """
        while self._running:
            for candidates, prefill in ((self._running, False), (self._running[:1], True)):
                plan = plan_step(candidates, self._model.n_batch, prefill=prefill)
                if plan.rows and (code := self._model.decode(plan.rows)) != 1:
                    return plan, code
            deltas.append(self._end(self._running[-1], FinishReason.ERROR, error="the model ran out of KV cells"))
        return plan_step((), self._model.n_batch), 0

    def _repair(self, code: int, deltas: list[Delta]) -> None:
        """A refused, aborted or failed decode: bring our books back in line with what the context really holds."""
        self._failures += 1
        if self._failures > 1 and code < -1:
            raise ModelBroken(f"llama_decode failed twice in a row (code {code})")
        for sequence in list(self._running):
            self._reconcile(sequence)
        if code == -1:
            self._find_refused(deltas)

    def _reconcile(self, sequence: Sequence) -> None:
        # Drop what was stored beyond our books rather than trust a batch that failed half-way.
        held = min(self._model.positions(sequence.seq_id), sequence.stored)
        self._model.remove(sequence.seq_id, held)
        self._cells.truncate(sequence.seq_id, held)
        sequence.stored = held

    def _find_refused(self, deltas: list[Delta]) -> None:
        """Code -1: one row of the batch was not acceptable. Try each sequence alone and end those refused again."""
        for sequence in list(self._running):
            plan = plan_step([sequence], self._model.n_batch)
            code = self._model.decode(plan.rows)
            if code == 0:
                share = plan.shares[0]
                sequence.stored += share.count
                self._cells.occupy(sequence.seq_id, share.count)
                if share.row is not None:
                    deltas.append(self._accept(sequence, sequence.sampler.sample(share.row)))
            else:
                deltas.append(self._end(sequence, FinishReason.ERROR, error=f"llama_decode refused it (code {code})"))


def _failure(request_id: str, error: str) -> Delta:
    return Delta(request_id, finish_reason=FinishReason.ERROR, error=error)
