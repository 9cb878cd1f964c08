"""A server in virtual time: the real scheduler core over simulated workers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from slotwise.benchmarks.simulation.engine import Engine, HostCosts
from slotwise.benchmarks.simulation.timeline import Timeline
from slotwise.benchmarks.simulation.worker import SimulatedWorker, Stepped
from slotwise.errors import SlotwiseError
from slotwise.scheduler import events as ev
from slotwise.scheduler.affinity import Marks
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.policy import Policies
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from slotwise.workers.protocol import Asker, ModelInfo

#: Characters of a token, for what the scheduler prices a prompt by before it is tokenised.
CHARACTERS_PER_TOKEN = 4.5


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model and what its workers run on."""

    spec: ModelSpec
    engine: Engine
    info: ModelInfo
    host: HostCosts = HostCosts()
    n_batch: int = 512
    itl_target: float = 0.0
    load_s: float = 1.0
    #: Main memory for what is pushed out of the context.
    host_bytes: int = 0


@dataclass(slots=True)
class Job:
    """One request and what became of it. Times in seconds of the timeline."""

    request_id: str
    model: str
    flow: Flow
    prompt: list[int]
    #: Tokens after which the model would end, and those that were asked for at most.
    output: int
    max_output: int | None
    on_end: Callable[[Job], None]
    submitted: float
    granted: float | None = None
    #: When each token was with the client.
    said_at: list[float] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    error: SlotwiseError | None = None
    complete: bool = False
    over: bool = False


def started(models: Mapping[str, SimulatedModel], config: SchedulerConfig | None = None) -> SimulatedServer:
    """A server whose models are loaded, at the beginning of its time."""
    server = SimulatedServer(Timeline(), models, config)
    server.preload()
    server.run(until=max(model.load_s for model in models.values()) + 1.0)
    return server


class SimulatedServer:
    """Takes requests and tells how they went. Prompts are lists of numbers; equal beginnings are equal prompts."""

    def __init__(
        self,
        timeline: Timeline,
        models: Mapping[str, SimulatedModel],
        config: SchedulerConfig | None = None,
        policies: Policies | None = None,
    ) -> None:
        self.timeline = timeline
        self.core = Scheduler(
            config or SchedulerConfig(), {name: model.spec for name, model in models.items()}, policies
        )
        self.tokens = itertools.count(1)
        self.steps = 0
        #: Seconds of all steps, and of those with prompts in them, over all workers.
        self.busy_s = self.prompt_s = 0.0
        self._models = models
        self._workers: dict[int, SimulatedWorker] = {}
        self._of: dict[int, str] = {}
        self._jobs: dict[str, Job] = {}
        #: Where each request has its slot, or had it last: the worker, and what that calls it. It has another name each
        #: time that it comes to a worker, since what the one before was about to say of it may still come.
        self._at: dict[str, tuple[int, str]] = {}
        self._request_of: dict[str, str] = {}
        #: Those whose people have left, and when: what was said until then was heard.
        self._left: dict[str, tuple[Job, float]] = {}
        #: Those that have no slot now.
        self._waiting: set[str] = set()
        self._numbers = itertools.count(1)
        self._busy = False
        self._inbox: list[ev.Event] = []
        #: When the core is to be ticked, as of the last event; and whether there was one since.
        self._deadline: float | None = None
        self._heard = True

    def preload(self) -> None:
        """Load all models, and be ready at once."""
        first, *others = self._models
        self._post(ev.PreloadRequested(first, tuple(others)))

    def has_several(self, model: str) -> bool:
        """Workers of a model: it matters which of them has had a prompt."""
        return self._models[model].spec.replicas > 1

    def submit(
        self,
        model: str,
        flow: Flow,
        prompt: list[int],
        output: int,
        on_end: Callable[[Job], None],
        *,
        max_output: int | None = None,
        marks: Marks = (),
    ) -> Job:
        """`output`: tokens after which the model ends the answer, unless `max_output` does before."""
        name = f"r{next(self._numbers)}"
        job = Job(name, model, flow, prompt, output, max_output, on_end, self.timeline.now)
        self._jobs[name] = job
        self._waiting.add(name)
        characters = round(len(prompt) * CHARACTERS_PER_TOKEN)
        self._post(ev.RequestSubmitted(name, model, max_output, flow, None, characters, marks=marks))
        return job

    def cancel(self, job: Job) -> None:
        """Whoever asked leaves."""
        if not job.over:
            job.over = True
            del self._jobs[job.request_id]
            self._left[job.request_id] = job, self.timeline.now
            self._post(ev.RequestCancelled(job.request_id))

    def run(self, until: float | None = None) -> None:
        """Everything that happens until then, or until nothing happens any more."""
        timeline = self.timeline
        while True:
            happens = timeline.next_at
            if self._heard:
                # What the core waits for changes with what it hears.
                self._deadline, self._heard = self.core.next_deadline(), False
            deadline = self._deadline
            if happens is None and (deadline is None or self.core.idle):
                if until is not None and not self.core.idle:
                    timeline.now = max(until, timeline.now)  # whoever waits, waits
                return
            is_next = happens is not None and (deadline is None or happens <= deadline)
            due = happens if is_next else deadline
            assert due is not None
            if until is not None and due > until:
                timeline.now = max(until, timeline.now)
                return
            if is_next:
                timeline.step()
            else:
                timeline.now = max(due, timeline.now)
                self._post(ev.Tick())

    def check_invariants(self) -> None:
        self.core.check_invariants()
        for worker in self._workers.values():
            worker.check_invariants()

    # ---- the core

    def _post(self, event: ev.Event) -> None:
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = self._heard = True
        while self._inbox:
            for action in self.core.handle(self._inbox.pop(0), self.timeline.now):
                self._perform(action)
        self._busy = False

    def _perform(self, action: ev.Action) -> None:
        match action:
            case ev.PreparePrompt(request_id, worker_id):
                self._prepare(request_id, worker_id)
            case ev.Grant():
                self._grant(action)
            case ev.ExtendSequence(request_id, worker_id, cells):
                self._workers[worker_id].extend(self._at[request_id][1], cells)
            case ev.PauseSequence(request_id, worker_id):
                self._waiting.add(request_id)
                self._workers[worker_id].pause(self._at[request_id][1])
            case ev.ResumeSequence(request_id, worker_id, cells):
                self._waiting.discard(request_id)
                self._workers[worker_id].resume(self._at[request_id][1], cells)
            case ev.CancelSequence(request_id, worker_id):
                # One that is only prepared has no name there.
                if request_id in self._at and worker_id in self._workers:
                    self._workers[worker_id].cancel(self._at[request_id][1])
            case ev.BookUsage(request_id):
                self._waiting.discard(request_id)
                self._left.pop(request_id, None)
                if (at := self._at.pop(request_id, None)) is not None:
                    del self._request_of[at[1]]
            case ev.EndRequest(request_id, error):
                if (job := self._jobs.pop(request_id, None)) is not None:
                    job.error, job.over = error, True
                    job.on_end(job)
            case ev.StartWorker(worker_id, model):
                self._start_worker(worker_id, model)
            case ev.StopWorker(worker_id):
                self._workers.pop(worker_id, None)
                self.timeline.after(0.0, lambda: self._post(ev.WorkerLost(worker_id, "exited with code 0")))
            case ev.ResizePool(worker_id, cells):
                cap = self._models[self._of[worker_id]].info.context_cap
                self.timeline.after(0.0, lambda: self._post(ev.PoolResized(worker_id, cells, cap, done=False)))
            case _:
                pass

    def _prepare(self, request_id: str, worker_id: int) -> None:
        """The front reads it and the worker tokenises it, beside the steps."""
        job = self._jobs.get(request_id)
        tokens = 0 if job is None else len(job.prompt)
        host = self._models[self._of[worker_id]].host
        takes = host.request_s + tokens * host.prompt_token_s
        self._workers[worker_id].takes(host.request_taken_s)
        self.timeline.after(takes, lambda: self._post(ev.RequestPriced(request_id, tokens)))

    def _grant(self, grant: ev.Grant) -> None:
        name, job = grant.request_id, self._jobs[grant.request_id]
        job.granted = self.timeline.now if job.granted is None else job.granted
        # It may have begun on another worker, which has been told to forget it.
        generated: list[int] = []
        if (before := self._at.get(name)) is not None:
            generated = self._workers[before[0]].answer_of(before[1])[: len(job.said_at)]
            del self._request_of[before[1]]
        here = f"{name}/{next(self._numbers)}"
        self._at[name], self._request_of[here] = (grant.worker_id, here), name
        self._waiting.discard(name)
        output = min(job.output, grant.max_output_tokens)
        asker = Asker(job.flow.key, job.flow.user, grant.weight, grant.level)
        self._workers[grant.worker_id].start(here, job.prompt, generated, output, grant.cells, asker)

    def _start_worker(self, worker_id: int, name: str) -> None:
        model = self._models[name]
        self._of[worker_id] = name
        self._workers[worker_id] = SimulatedWorker(
            worker_id,
            self.timeline,
            model.engine,
            model.host,
            model.info,
            model.n_batch,
            model.itl_target,
            self.tokens,
            self._stepped,
            lambda: not self._waiting,
            host_bytes=model.host_bytes,
            cell_bytes=model.spec.cell_bytes,
        )
        info = model.info
        ready = ev.WorkerReady(worker_id, info.slots, info.kv_cells, info.context_cap)
        self.timeline.after(model.load_s, lambda: self._post(ready))

    def _stepped(self, worker_id: int, stepped: Stepped) -> None:
        self.steps += len(stepped.at)
        took = stepped.seconds * len(stepped.at)
        self.busy_s += took
        self.prompt_s += took if stepped.prefill_tokens else 0.0
        outputs, count = [], len(stepped.at)
        delivery = self._models[self._of[worker_id]].host.delivery_s
        at = [when + delivery for when in stepped.at] if delivery else stepped.at
        for name in stepped.said:
            request_id = self._request_of.get(name)
            if request_id is None:
                continue  # it went on elsewhere
            outputs.append((request_id, count))
            if (job := self._jobs.get(request_id)) is not None:
                job.said_at += at
            elif request_id in self._left:
                job, left = self._left[request_id]
                job.said_at += [when for when in at if when <= left]
        for end in stepped.ended:
            request_id = self._request_of.get(end.request_id)
            if request_id is None:
                continue
            job = self._jobs.pop(request_id, None)
            finished = ev.SequenceFinished(
                request_id, end.prompt_tokens, end.cached_tokens, len(end.output), end.complete
            )
            self._post(finished)
            if job is not None:
                job.answer, job.cached_tokens = end.output, end.cached_tokens
                job.complete, job.over = end.complete, True
                job.on_end(job)
        self._post(
            ev.StepDone(
                worker_id,
                stepped.decode_rows,
                stepped.prefill_tokens,
                tuple(outputs),
                stepped.seconds,
                steps=count,
            )
        )
