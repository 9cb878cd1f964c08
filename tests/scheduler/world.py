"""A machine in virtual time under the real scheduler core: hours of load in seconds, the same every time.

The worker steps as ours does: a row for each sequence that decodes, and prompt tokens as there is time for; shortest
prompt first. What a step costs is known, so that what the core learns and predicts can be held against it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from slotwise.errors import SlotwiseError
from slotwise.memory.accounts import on_host
from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import Policies
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig

WORKER = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """seconds of a step = base + row * decode rows + token * prompt tokens."""

    slots: int = 8
    kv_cells: int = 65_536
    context_cap: int = 8_192
    base: float = 0.005
    row: float = 0.004
    token: float = 0.002
    #: Prompt tokens of a step while others decode.
    chunk: int = 128

    def seconds(self, rows: int, tokens: int) -> float:
        return self.base + self.row * rows + self.token * tokens


@dataclass(slots=True)
class Job:
    """One request and what became of it."""

    name: str
    flow: Flow
    prompt: int
    output: int
    submitted: float
    max_wait: float | None = None
    priority: Priority | None = None
    on_end: Callable[[Job, float], None] = lambda job, now: None
    granted: float | None = None
    first: float | None = None
    ended: float | None = None
    error: SlotwiseError | None = None
    computed: int = 0
    made: int = 0
    cells: int = 0
    pauses: int = 0

    @property
    def has_a_cell(self) -> bool:
        return self.prompt + self.made <= self.cells

    @property
    def ttft(self) -> float:
        assert self.first is not None
        return self.first - self.submitted


@dataclass
class World:
    """One model, one worker, any load."""

    machine: Machine = field(default_factory=Machine)
    config: SchedulerConfig = field(default_factory=SchedulerConfig)
    policies: Policies = field(default_factory=dict)
    now: float = 0.0
    jobs: dict[str, Job] = field(default_factory=dict)
    _at: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _count: int = 0
    _step_ends: float | None = None
    _rows: list[Job] = field(default_factory=list)
    _chunks: dict[str, int] = field(default_factory=dict)
    running: dict[str, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = ModelSpec(on_host(0), self.machine.slots, self.machine.kv_cells, self.machine.context_cap)
        self.core = Scheduler(self.config, {"m": spec}, self.policies)
        self.do(ev.PreloadRequested("m"))
        self.do(ev.WorkerReady(WORKER, self.machine.slots, self.machine.kv_cells, self.machine.context_cap))

    def at(self, when: float, what: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._at, (when, self._count, what))

    def submit(
        self,
        flow: Flow,
        prompt: int,
        output: int,
        *,
        on_end: Callable[[Job, float], None] = lambda job, now: None,
        max_wait: float | None = None,
        priority: Priority | None = None,
        most: int | None = None,
    ) -> Job:
        """`most`: what the request says about its answer's length (max_tokens); None = nothing."""
        self._count += 1
        job = Job(f"r{self._count}", flow, prompt, output, self.now, max_wait, priority, on_end)
        self.jobs[job.name] = job
        self.do(ev.RequestSubmitted(job.name, "m", most, flow, priority, 4 * prompt, max_wait))
        return job

    def stream(self, flow: Flow, prompt: int, output: int, until: float) -> None:
        """Somebody who asks again as soon as an answer has ended."""

        def again(job: Job, now: float) -> None:
            if now < until:
                pause = 1.0 if job.error else 0.0
                self.at(now + pause, lambda later: self.stream(flow, prompt, output, until))

        self.submit(flow, prompt, output, on_end=again)

    def cancel(self, job: Job) -> None:
        self.do(ev.RequestCancelled(job.name))

    def run(self, until: float) -> None:
        """Everything that happens until then."""
        while True:
            self._begin_step()
            times = [self._at[0][0]] if self._at else []
            times += [] if self._step_ends is None else [self._step_ends]
            deadline = self.core.next_deadline()
            times += [] if deadline is None else [max(deadline, self.now)]
            if not times or min(times) > until:
                self.now = until
                return
            self.now = min(times)
            if self._step_ends is not None and self._step_ends <= self.now:
                self._end_step()
            elif self._at and self._at[0][0] <= self.now:
                heapq.heappop(self._at)[2](self.now)
            else:
                self.do(ev.Tick())

    def do(self, event: ev.Event) -> None:
        for action in self.core.handle(event, self.now):
            match action:
                case ev.PreparePrompt(request_id):
                    self.do(ev.RequestPriced(request_id, self.jobs[request_id].prompt))
                case ev.Grant(request_id, _, _, cells):
                    job = self.jobs[request_id]
                    job.granted, job.cells = self.now, cells
                    self.running[request_id] = job
                case ev.ExtendSequence(request_id, _, cells):
                    self.running[request_id].cells = cells
                case ev.PauseSequence(request_id):
                    self.jobs[request_id].pauses += 1
                    del self.running[request_id]
                case ev.ResumeSequence(request_id, _, cells):
                    self.running[request_id] = self.jobs[request_id]
                    self.jobs[request_id].cells = cells
                case ev.EndRequest(request_id, error):
                    self._ended(self.jobs[request_id], error)
                case ev.CancelSequence(request_id) if request_id in self.running:
                    job = self.running.pop(request_id)
                    self.do(ev.SequenceFinished(request_id, job.prompt, 0, job.made))
                case _:
                    pass

    def _ended(self, job: Job, error: SlotwiseError | None) -> None:
        assert job.ended is None, "a request ends once"
        job.ended, job.error = self.now, error
        job.on_end(job, self.now)

    # ---- the worker

    def _begin_step(self) -> None:
        if self._step_ends is not None or not self.running:
            return
        assert sum(job.cells for job in self.running.values()) <= self.machine.kv_cells
        self._rows = [job for job in self.running.values() if job.computed == job.prompt and job.has_a_cell]
        prompts = [job for job in self.running.values() if job.computed < job.prompt]
        room = self.machine.chunk if self._rows else 512
        self._chunks = {}
        for job in sorted(prompts, key=lambda job: job.prompt - job.computed):
            self._chunks[job.name] = min(room, job.prompt - job.computed)
            room -= self._chunks[job.name]
        if not self._rows and not self._chunks:
            return  # all of them stand still
        self._step_ends = self.now + self.machine.seconds(len(self._rows), sum(self._chunks.values()))

    def _end_step(self) -> None:
        assert self._step_ends is not None
        rows, tokens = len(self._rows), sum(self._chunks.values())
        self._step_ends = None
        made = [job for job in self._rows if job.name in self.running]
        for name, count in self._chunks.items():
            if job := self.running.get(name):
                job.computed += count
                if job.computed == job.prompt:
                    made.append(job)
        seconds = self.machine.seconds(rows, tokens)
        self.do(ev.StepDone(WORKER, rows, tokens, tuple((job.name, 1) for job in made), seconds))
        for job in made:
            job.made += 1
            job.first = job.first or self.now
        for job in made:
            if job.made >= job.output and job.name in self.running:
                del self.running[job.name]
                self.do(ev.SequenceFinished(job.name, job.prompt, 0, job.made, complete=True))
                self._ended(job, None)
