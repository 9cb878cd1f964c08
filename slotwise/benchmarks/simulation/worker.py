"""A worker in virtual time: the real composer, batcher and cells; what is simulated is the model.

Steps that have nothing but decode rows and would all be alike are taken together (a *leap*): nothing is decided between
them. A command that comes meanwhile ends the leap with the step that is under way, as it would be applied after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from slotwise.benchmarks.simulation.engine import Engine, HostCosts, PromptPart, runs_of
from slotwise.benchmarks.simulation.memory import SimulatedMemory
from slotwise.benchmarks.simulation.timeline import Timeline
from slotwise.workers.attaching import active as active_of
from slotwise.workers.attaching import attach
from slotwise.workers.batch import StepPlan, is_decoding
from slotwise.workers.composer import Composer
from slotwise.workers.composer import PromptPart as Part
from slotwise.workers.kv import KVCache
from slotwise.workers.protocol import Asker, ModelInfo
from slotwise.workers.sequences import Sequence
from slotwise.workers.text import TextStream

#: Most steps of a leap, and most seconds: the scheduler hears of steps in time to give cells and to pause; and where
#: nobody waits for either.
MOST_STEPS, _MOST_LEAP_S = 16, 0.25
_MOST_ALONE, _MOST_ALONE_S = 128, 2.0
#: A step that computes nothing.
_NOTHING_S = 1e-3


@dataclass(frozen=True, slots=True)
class SequenceEnd:
    """An answer is whole, or was cancelled."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    #: All of its tokens.
    output: list[int]
    complete: bool


@dataclass(frozen=True, slots=True)
class Stepped:
    """What became of a step, or of several alike."""

    decode_rows: int
    prefill_tokens: int
    #: Seconds of each step.
    seconds: float
    #: When each ended.
    at: list[float]
    #: Requests that got a token in each of them.
    said: list[str]
    ended: list[SequenceEnd]


@dataclass(slots=True)
class _UnderWay:
    """A step, or a leap, that is being computed."""

    plan: StepPlan
    active: list[Sequence]
    began: float
    #: When each of its steps ends.
    ends: list[float]
    copied: bool
    version: int = 0


class _Drawn:
    """Nothing is sampled: the tokens of answers are numbers that come once."""

    def sample(self, row: int) -> int:
        raise AssertionError("nothing is computed in a simulation")

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class SimulatedWorker:
    """One worker of a model."""

    worker_id: int
    timeline: Timeline
    engine: Engine
    host: HostCosts
    info: ModelInfo
    n_batch: int
    itl_target: float
    #: Numbers for tokens; no two are the same.
    tokens: Iterator[int]
    tell: Callable[[int, Stepped], None]
    #: Nobody waits for a slot or for cells.
    at_ease: Callable[[], bool]
    #: Main memory for what is pushed out of the context, and what a cell takes of it.
    host_bytes: int = 0
    cell_bytes: int = 0
    _running: list[Sequence] = field(default_factory=list)
    _paused: dict[str, Sequence] = field(default_factory=dict)
    _inbox: deque[Callable[[], None]] = field(default_factory=deque)
    _ended: list[SequenceEnd] = field(default_factory=list)
    _under_way: _UnderWay | None = None
    _versions: int = 0
    _awake: bool = False
    #: Seconds that others have taken from the steps since the last began.
    _taken: float = 0.0

    def __post_init__(self) -> None:
        self._memory = SimulatedMemory(self.info, self.cell_bytes)
        self._kv = KVCache(self._memory, None, self.host_bytes)
        self._composer = Composer(self.n_batch, 0, self.itl_target)
        #: A sequence has the cells of its whole answer from its start.
        self._has_cells = self.info.slots * self.info.context_cap <= self.info.kv_cells

    # ---- commands, applied between two steps

    def start(
        self, request_id: str, prompt: list[int], generated: list[int], output: int, cells: int, asker: Asker
    ) -> None:
        """`output`: tokens after which the answer ends, those that another worker has `generated` among them."""
        sequence = Sequence(
            request_id=request_id,
            tokens=[*prompt, *generated],
            prompt_tokens=len(prompt),
            max_output_tokens=output,
            sampler=_Drawn(),
            text=TextStream(),
            end_tokens=frozenset(),
            promised=cells,
            asker=asker,
            output_tokens=len(generated),
        )
        self._command(lambda: self._start(sequence))

    def extend(self, request_id: str, cells: int) -> None:
        self._command(lambda: self._extend(request_id, cells))

    def pause(self, request_id: str) -> None:
        self._command(lambda: self._pause(request_id))

    def resume(self, request_id: str, cells: int) -> None:
        self._command(lambda: self._resume(request_id, cells))

    def cancel(self, request_id: str) -> None:
        self._command(lambda: self._cancel(request_id))

    def answer_of(self, request_id: str) -> list[int]:
        """What a request that it has, running or paused, has of its answer."""
        running = (one for one in self._running if one.request_id == request_id)
        sequence = self._paused.get(request_id) or next(running)
        return sequence.tokens[sequence.prompt_tokens :]

    def takes(self, seconds: float) -> None:
        """Others have the machine for so long meanwhile."""
        self._taken += seconds

    def check_invariants(self) -> None:
        self._kv.check_invariants([sequence for sequence in self._running if sequence.attached])

    def _command(self, apply: Callable[[], None]) -> None:
        self._inbox.append(apply)
        if self._under_way is not None:
            self._cut(self._under_way)
        elif not self._awake:
            self._awake = True
            self.timeline.after(0.0, self._turn)

    def _cut(self, leap: _UnderWay) -> None:
        """It ends with the step that is under way."""
        at = bisect_right(leap.ends, self.timeline.now)
        if at + 1 < len(leap.ends):
            del leap.ends[at + 1 :]
            self._await(leap)

    # ---- what commands do

    def _start(self, sequence: Sequence) -> None:
        self._kv.reserve(sequence.request_id, sequence.promised)
        self._running.append(sequence)

    def _extend(self, request_id: str, cells: int) -> None:
        for sequence in self._running:
            if sequence.request_id == request_id:
                self._kv.extend(request_id, cells)
                sequence.promised = cells

    def _pause(self, request_id: str) -> None:
        for sequence in self._running:
            if sequence.request_id == request_id:
                self._running.remove(sequence)
                self._kv.release(sequence, keep=True)
                self._paused[request_id] = sequence
                return

    def _resume(self, request_id: str, cells: int) -> None:
        sequence = self._paused.pop(request_id, None)
        if sequence is None:
            return  # it had ended before it could be paused, and the server knows by now
        sequence.promised = cells
        self._kv.reserve(request_id, cells)
        self._running.append(sequence)

    def _cancel(self, request_id: str) -> None:
        if (paused := self._paused.pop(request_id, None)) is not None:
            self._ended.append(_end(paused, complete=False))
        for sequence in self._running:
            if sequence.request_id == request_id:
                self._finish(sequence, complete=False)
                return

    def _finish(self, sequence: Sequence, *, complete: bool) -> None:
        self._running.remove(sequence)
        self._kv.release(sequence, keep=True)
        self._ended.append(_end(sequence, complete=complete))

    # ---- steps

    def _turn(self) -> None:
        """Between two steps."""
        while self._inbox:
            self._inbox.popleft()()
        if not self._ended and all(sequence.stands_still for sequence in self._running):
            self._awake = False
            return
        self._memory.moved = 0
        copied = attach(self._running, self._kv)
        active = active_of(self._running)
        if len(active) == len(self._running) and all(is_decoding(sequence) for sequence in active):
            plan = self._composer.plan_of_answers(active)
        else:
            plan = self._composer.plan(active, [sequence for sequence in self._running if sequence.waits])
        ends = self._ends(plan, active)
        if plan.rows:
            self._kv.make_room(plan.rows * len(ends))
        under_way = _UnderWay(plan, active, self.timeline.now, ends, copied)
        self._taken = 0.0
        self._await(under_way)

    def _await(self, under_way: _UnderWay) -> None:
        self._versions += 1
        under_way.version = version = self._versions
        self._under_way = under_way
        self.timeline.at(under_way.ends[-1], lambda: self._computed(under_way, version))

    def _ends(self, plan: StepPlan, active: list[Sequence]) -> list[float]:
        """When the step ends, and those after it that are like it."""
        engine, at = self.engine, self.timeline.now + self._taken
        if not plan.rows:
            return [at + _NOTHING_S]
        moved = self._memory.moved * engine.copy_s
        rows = plan.decode_rows
        answering = [active[share.index] for share in plan.shares if not share.prefill] if plan.shares else active
        own = sum(sequence.stored for sequence in answering) + rows
        reach = self._reach(answering, plan)
        if not plan.shares:
            runs = runs_of(sequence.row for sequence in active)
            bare = engine.bare_seconds(runs, ()) + rows * self.host.token_taken_s
            return self._like_steps(at + moved, bare, rows, own, reach, self._alike(active))
        chunks = [share.chunk for share in plan.shares if share.prefill]
        parts = [PromptPart(len(chunk.tokens), chunk.start) for chunk in chunks]
        said = sum(len(share.sampled) for share in plan.shares)
        runs = runs_of([one.row for one in answering], [chunk.seq_id for chunk in chunks])
        bare = engine.bare_seconds(runs, parts) + said * self.host.token_taken_s
        bare += plan.prefill_tokens * self.host.prompt_taken_s
        looks = engine.row_seconds(rows, own, reach)
        looks += sum(engine.part_seconds(part, part.start + part.tokens if engine.split else reach) for part in parts)
        return [at + moved + bare + looks]

    def _like_steps(self, at: float, bare: float, rows: int, own: int, reach: int, count: int) -> list[float]:
        """When so many steps end that differ only in how much there is to look at, or as many as a leap may last."""
        engine = self.engine
        first = bare + engine.row_seconds(rows, own, reach)
        # Each row looks at one cell more in each step, and at as many more of others as its range grows by.
        grows = 1 if engine.split else rows
        more = rows * engine.own_s[0] + rows * (grows - 1) * engine.foreign_s[0]
        latest = self.timeline.now + (_MOST_ALONE_S if count > MOST_STEPS else _MOST_LEAP_S)
        ends = [at + index * first + more * (index * (index - 1) // 2) for index in range(1, count + 1)]
        while len(ends) > 1 and ends[-2] > latest:
            ends.pop()
        return ends

    def _reach(self, answering: list[Sequence], plan: StepPlan) -> int:
        """Cells within which a decode row's own are."""
        if not self.engine.split:
            return self._kv.used + self._kv.retained + plan.rows
        return max((sequence.stored + 1 for sequence in answering), default=0)

    def _alike(self, active: list[Sequence]) -> int:
        """So many steps have the same rows, if nobody says otherwise."""
        if len(active) < len(self._running):  # somebody waits, or stands still
            return 1
        least = min(min(sequence.output_left, sequence.promised - sequence.stored) for sequence in active)
        most = max(MOST_STEPS, _MOST_ALONE) if MOST_STEPS > 1 and self._has_cells and self.at_ease() else MOST_STEPS
        return max(1, min(least, most))

    def _computed(self, under_way: _UnderWay, version: int) -> None:
        if under_way.version != version or self._under_way is not under_way:
            return  # it was cut
        self._under_way = None
        plan, ends = under_way.plan, under_way.ends
        seconds = (ends[-1] - under_way.began) / len(ends)
        self._kv.decoded()
        prompts: list[Part] = []
        said: list[str] = []
        if plan.shares:
            for share in plan.shares:
                sequence, chunk = under_way.active[share.index], share.chunk
                if share.prefill:
                    count = len(chunk.tokens)
                    prompts.append(Part(sequence.asker, count, chunk.start + count / 2))
                self._store(sequence, list(chunk.tokens), bool(share.sampled), said)
        else:
            for sequence in under_way.active:
                self._store(sequence, sequence.tokens[-1:], len(ends), said)
        if plan.rows:
            self._composer.computed(plan, prompts, seconds, copied=under_way.copied, steps=len(ends))
        ended, self._ended = self._ended, []
        self.tell(self.worker_id, Stepped(plan.decode_rows, plan.prefill_tokens, seconds, ends, said, ended))
        self._turn()

    def _store(self, sequence: Sequence, tokens: list[int], sampled: int, said: list[str]) -> None:
        """A step stored these, and so many new tokens were sampled in it and in those that were like it."""
        if sampled:
            new = list(islice(self.tokens, sampled))
            sequence.tokens += new
            sequence.output_tokens += sampled
            tokens += new[:-1]
            said.append(sequence.request_id)
        self._memory.store(sequence.row, len(tokens))
        self._kv.store(sequence, tokens, wrong=0)
        if sequence.output_left <= 0:
            self._finish(sequence, complete=True)


def _end(sequence: Sequence, *, complete: bool) -> SequenceEnd:
    output = sequence.tokens[sequence.prompt_tokens :]
    return SequenceEnd(sequence.request_id, sequence.prompt_tokens, sequence.shared, output, complete)
