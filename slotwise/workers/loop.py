"""The step loop of a worker: commands in, one batch per step, one report per step out.

Rules:
1. A started sequence ends in exactly one terminal delta, whatever happens to it.
2. Its row and its cells are given back in the same call that reports the end, or pauses it.
3. A command is applied between two steps, never inside one: a cancel costs at most one further step.
4. Nothing here knows pipes, threads or clocks other than the step timer it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from slotwise.request import FinishReason, TokenLogprob, Usage
from slotwise.workers.attaching import active as active_of
from slotwise.workers.attaching import attach
from slotwise.workers.batch import NoPrompts, Share, StepPlan, plan_step
from slotwise.workers.cells import CellsExhausted
from slotwise.workers.composer import Composer, PromptPart
from slotwise.workers.constraint import ConstraintRefused, Constraints
from slotwise.workers.kv import KVCache
from slotwise.workers.logprobs import log_probabilities
from slotwise.workers.model import Model, NoTokenAllowed
from slotwise.workers.protocol import Delta, ExtendSequence, Resized, ResumeSequence, StartSequence, StepReport
from slotwise.workers.sequences import Sequence
from slotwise.workers.text import TextStream
from slotwise.workers.warm import WarmPrefixes


class ModelBroken(Exception):
    """Raised when the model fails twice in a row: the process should end and its requests be replayed elsewhere."""


class StepLoop:
    """Continuous batching over one model."""

    def __init__(
        self,
        model: Model,
        warm: WarmPrefixes | None = None,
        *,
        host_bytes: int = 0,
        itl_target: float = 0.0,
        constraints: Constraints | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`itl_target`: seconds that a step with prompts may take beside answers; 0 = any."""
        self._model = model
        self._constraints = constraints or Constraints(model.vocabulary)
        self._timer = timer
        self._kv = KVCache(model, warm, host_bytes)
        self._composer = Composer(model.n_batch, model.info.draft_rows, itl_target)
        #: In order of arrival.
        self._running: list[Sequence] = []
        self._prompts: dict[str, list[int]] = {}
        #: Begun, and without a row until they are resumed.
        self._paused: dict[str, Sequence] = {}
        #: Ends that happened between steps (cancels, refusals), told with the next report.
        self._ended: list[Delta] = []
        self._failures = 0

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to tell."""
        return not self._ended and all(sequence.stands_still for sequence in self._running)

    def prepared(self, request_id: str, tokens: list[int]) -> None:
        """Keep a prompt's tokens until it is started or cancelled."""
        self._prompts[request_id] = tokens

    def start(self, command: StartSequence) -> None:
        """Begin a prepared prompt; it takes part from the next step on."""
        tokens = self._prompts.pop(command.request_id, None) or list(command.prompt)
        if not tokens:
            self._ended.append(_failure(command.request_id, "the prompt was not prepared on this worker"))
            return
        try:
            constraint, generated = command.constraint, command.generated
            matcher = self._constraints.matcher(constraint, generated, tokens) if constraint else None
        except ConstraintRefused as refusal:  # not where it was checked before
            self._ended.append(_failure(command.request_id, str(refusal), refused=True))
            return
        # The last output token is never stored: nothing comes after it.
        promised = command.cells or len(tokens) + command.max_output_tokens
        try:
            self._kv.reserve(command.request_id, promised)
        except CellsExhausted as error:
            self._ended.append(_failure(command.request_id, str(error)))
            return
        sampler = self._model.new_sampler(
            command.sampling,
            prompt=tokens,
            ignore_eos=command.ignore_eos,
            generated=command.generated,
            matcher=matcher,
        )
        sequence = Sequence(
            request_id=command.request_id,
            tokens=list(tokens),
            prompt_tokens=len(tokens),
            max_output_tokens=command.max_output_tokens,
            sampler=sampler,
            text=TextStream(command.stop),
            end_tokens=frozenset() if command.ignore_eos else self._model.vocabulary.end_tokens,
            promised=promised,
            scope=command.scope,
            asker=command.asker,
            # A seed promises the same text again, and rounding may differ with the number of rows.
            drafted_for=command.sampling.seed is None,
            special_text=command.special_text,
            top_logprobs=command.top_logprobs,
            matcher=matcher,
        )
        sequence.go_on_after(command.generated, self._piece(sequence))
        self._running.append(sequence)

    def pause(self, request_id: str) -> None:
        """Take a running sequence out, as it is; what it stored is retained until others want the room.

        Anything else is not an error: it may have ended in the step that the scheduler has not heard of.
        """
        for sequence in self._running:
            if sequence.request_id == request_id:
                self._running.remove(sequence)
                self._kv.release(sequence, keep=True)
                self._paused[request_id] = sequence
                return

    def resume(self, command: ResumeSequence) -> None:
        """Let a paused sequence go on: from what is left of its cells, and the rest is computed again."""
        sequence = self._paused.pop(command.request_id, None)
        if sequence is None:
            self._ended.append(_failure(command.request_id, "it was not paused on this worker"))
            return
        sequence.promised = command.cells or sequence.prompt_tokens + sequence.max_output_tokens
        try:
            self._kv.reserve(command.request_id, sequence.promised)
        except CellsExhausted as error:
            sequence.sampler.close()
            self._ended.append(_failure(command.request_id, str(error)))
            return
        self._running.append(sequence)

    def extend(self, command: ExtendSequence) -> None:
        """Let a sequence hold more cells. One that is not running may have ended in the step before."""
        for sequence in self._running:
            if sequence.request_id == command.request_id:
                try:
                    self._kv.extend(command.request_id, command.cells)
                except CellsExhausted as error:
                    self._ended.append(self._end(sequence, FinishReason.ERROR, error=str(error)))
                else:
                    sequence.promised = command.cells
                return

    def resize(self, cells: int) -> Resized:
        """Make the context again with so many cells; whoever runs goes on from where it is. Fewer cells than were
        promised are refused.

        Raises:
            ContextLost: there is none any more, and no request is to blame.
        """
        began = self._timer()
        if cells < self._kv.promised:
            return Resized(self._model.info, False, 0.0)
        attached = [sequence for sequence in self._running if sequence.attached]
        states, stored = self._kv.save(attached), {one.request_id: one.stored for one in attached}
        for sequence in attached:
            sequence.lay_aside()
        done = self._kv.resize(cells)
        for sequence in self._running:
            self._kv.reserve(sequence.request_id, sequence.promised)
        moved = again = 0
        for sequence in attached:
            # One state after the other goes: there may be as many bytes of them as the pool has.
            state = states.pop(sequence.request_id, None)
            has = stored[sequence.request_id]
            if state is not None and self._kv.restore(sequence, has, state):
                moved += 1
            else:
                again += has > 0
        return Resized(self._model.info, done, self._timer() - began, moved, again)

    def cancel(self, request_id: str) -> None:
        """End a running or paused sequence, or forget a prepared prompt. Anything else is not an error."""
        self._prompts.pop(request_id, None)
        if paused := self._paused.pop(request_id, None):
            paused.sampler.close()
            self._ended.append(_terminal(paused, FinishReason.CANCELLED))
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
        no_cells = drafts_accepted = 0
        predicted = 0.0
        copied = attach(self._running, self._kv)
        active = active_of(self._running)
        plan = self._composer.plan(active, [sequence for sequence in self._running if sequence.waits])
        if plan.rows:
            self._kv.make_room(plan.rows)
            prompts = _prompt_parts(active, plan)
            # Copies are made in the decode, and are not in the cost model.
            predicted = 0.0 if copied else self._composer.predicted(plan, prompts)
            began = self._timer()
            code = self._model.decode(plan.chunks)
            if code == 1:
                no_cells = 1
                active, plan, code = self._retreat(active, deltas)
                prompts = _prompt_parts(active, plan)
            if code != 0 or no_cells:
                predicted = 0.0  # it was of another step
            if code == 0:
                self._failures = 0
                self._kv.decoded()
                drafts_accepted = self._advance(active, plan, deltas)
                self._composer.computed(plan, prompts, self._timer() - began, copied=copied)
            else:
                self._repair(code, deltas)
        return StepReport(
            deltas=tuple(deltas),
            decode_rows=plan.decode_rows,
            prefill_tokens=plan.prefill_tokens,
            seconds=self._timer() - started,
            cells_used=self._kv.used,
            cells_retained=self._kv.retained,
            host_bytes=self._kv.host_bytes,
            no_cells=no_cells,
            drafted=plan.drafted_rows,
            drafts_accepted=drafts_accepted,
            predicted=predicted,
        )

    def check_invariants(self) -> None:
        attached = [sequence for sequence in self._running if sequence.attached]
        self._kv.check_invariants(attached)
        assert len(self._running) <= self._kv.slots
        for sequence in attached:
            assert 0 <= sequence.stored < len(sequence.tokens)
            assert 0 <= sequence.shared < sequence.prompt_tokens
            assert sequence.stored <= sequence.promised
            assert sequence.output_tokens == len(sequence.tokens) - sequence.prompt_tokens

    def close(self) -> None:
        """End everything that runs, without a report: the process is about to end."""
        for sequence in list(self._running):
            self._end(sequence, FinishReason.CANCELLED)
        for request_id in list(self._paused):
            self.cancel(request_id)

    # ---- after a decode

    def _advance(self, active: list[Sequence], plan: StepPlan, deltas: list[Delta]) -> int:
        """Book what was stored and tell what was sampled. Returns how many drafted tokens were right."""
        drafts_accepted = 0
        for share in plan.shares:
            sequence, tokens = active[share.index], share.chunk.tokens
            try:
                sampled = _sample(sequence, share)
            except NoTokenAllowed as error:
                deltas.append(self._end(sequence, FinishReason.ERROR, error=str(error), refused=True))
                continue
            self._kv.store(sequence, tokens, wrong=len(share.sampled) - len(sampled))
            if sampled:
                drafts_accepted += len(sampled) - 1
                self._composer.learn(sequence, sampled)
                deltas.append(self._tell(sequence, sampled, share.sampled))
        return drafts_accepted

    def _tell(self, sequence: Sequence, sampled: list[int], rows: Iterable[int]) -> Delta:
        """`rows`: of the batch, from which these tokens were sampled."""
        accepted = sequence.accept(sampled, self._piece(sequence))
        logprobs = () if sequence.top_logprobs is None else self._logprobs(sequence, accepted.tokens, rows)
        if accepted.ended is None:
            name, told = sequence.request_id, accepted.told
            return Delta(name, accepted.text, accepted.tokens, logprobs=logprobs, logprobs_told=told)
        end = self._end(sequence, accepted.ended)
        return msgspec.structs.replace(
            end, text=accepted.text, tokens=accepted.tokens, logprobs=logprobs, logprobs_told=accepted.told
        )

    def _logprobs(self, sequence: Sequence, tokens: Iterable[int], rows: Iterable[int]) -> tuple[TokenLogprob, ...]:
        """Of all but a token that ends the answer: that one has no text. The logits are those of the last decode."""
        name, top = self._model.vocabulary.special_piece, sequence.top_logprobs or 0
        found = []
        for token, row in zip(tokens, rows, strict=False):
            if token not in sequence.end_tokens:
                logprob, likeliest = log_probabilities(self._model.logits(row), token, top)
                found.append(TokenLogprob(name(token), logprob, tuple((name(one), value) for one, value in likeliest)))
        return tuple(found)

    def _piece(self, sequence: Sequence) -> Callable[[int], bytes]:
        """The bytes of a token in an answer."""
        vocabulary = self._model.vocabulary
        return vocabulary.special_piece if sequence.special_text else vocabulary.piece

    def _end(
        self, sequence: Sequence, reason: FinishReason, *, error: str | None = None, refused: bool = False
    ) -> Delta:
        self._running.remove(sequence)
        # What an error left behind is not trusted.
        self._kv.release(sequence, keep=reason is not FinishReason.ERROR)
        sequence.sampler.close()
        return _terminal(sequence, reason, error=error, refused=refused)

    # ---- when a decode did not work

    def _retreat(self, active: list[Sequence], deltas: list[Delta]) -> tuple[list[Sequence], StepPlan, int]:
        """No cells (code 1): our books and the context disagree, which is a bug of ours and is counted.

        1. Without anything retained. 2. Without prompts, so that those being answered go on. 3. Only the oldest. 4. End
        the youngest and try again.
        """
        self._kv.drop_retained()
        while active:
            for candidates, budget in ((active, None), (active, NoPrompts()), (active[:1], None)):
                plan = plan_step(candidates, self._model.n_batch, budget)
                if plan.rows and (code := self._model.decode(plan.chunks)) != 1:
                    return candidates, plan, code
            deltas.append(self._end(active.pop(), FinishReason.ERROR, error="the model ran out of KV cells"))
        return [], StepPlan(), 0

    def _repair(self, code: int, deltas: list[Delta]) -> None:
        """A refused, aborted or failed decode: bring our books back in line with what the context really holds."""
        self._failures += 1
        if self._failures > 1 and code < -1:
            raise ModelBroken(f"llama_decode failed twice in a row (code {code})")
        for sequence in self._running:
            if sequence.attached:
                self._kv.reconcile(sequence)
        if code == -1:
            self._find_refused(deltas)

    def _find_refused(self, deltas: list[Delta]) -> None:
        """Code -1: one row of the batch was not acceptable. Try each sequence alone and end those refused again."""
        for sequence in active_of(self._running):
            plan = plan_step([sequence], self._model.n_batch)
            self._kv.make_room(plan.rows)
            code = self._model.decode(plan.chunks)
            if code == 0:
                self._failures = 0
                self._advance([sequence], plan, deltas)
            elif code != 1:  # no cells is no refusal: the next step has a way out of it
                deltas.append(self._end(sequence, FinishReason.ERROR, error=f"llama_decode refused it (code {code})"))


def _sample(sequence: Sequence, share: Share) -> list[int]:
    """The next token, and more as long as the drafted one is what the model chooses anyway.

    Each is drawn from its own row's logits by the sequence's own sampler, in order: the text is the one that would have
    come token by token, at any temperature.
    """
    sampled: list[int] = []
    drafted = iter(share.chunk.tokens[len(share.chunk.tokens) - len(share.sampled) + 1 :])
    for row in share.sampled:
        token = sequence.sampler.sample(row)
        sampled.append(token)
        if token != next(drafted, None) or token in sequence.end_tokens or sequence.whole:
            break
    return sampled


def _prompt_parts(active: list[Sequence], plan: StepPlan) -> list[PromptPart]:
    """What a step computes of prompts, before it is booked."""
    parts = [(active[share.index].asker, share.chunk) for share in plan.shares if share.prefill]
    return [PromptPart(asker, len(chunk.tokens), chunk.start + len(chunk.tokens) / 2) for asker, chunk in parts]


def _terminal(sequence: Sequence, reason: FinishReason, *, error: str | None = None, refused: bool = False) -> Delta:
    usage = Usage(
        prompt_tokens=sequence.prompt_tokens,
        completion_tokens=sequence.output_tokens,
        cached_tokens=sequence.shared,
    )
    return Delta(
        sequence.request_id,
        finish_reason=reason,
        usage=usage,
        error=error,
        refused=refused,
        stopped_by=sequence.text.stopped_by,
    )


def _failure(request_id: str, error: str, *, refused: bool = False) -> Delta:
    return Delta(request_id, finish_reason=FinishReason.ERROR, error=error, refused=refused)
