"""The real dispatcher and scheduler over several real step loops, in virtual time: pipes with delays, kills, pauses,
moves, clients that leave. Whatever happens, each answer is word for word the one that it would be alone.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from slotwise.errors import ContextLengthExceeded
from slotwise.memory.accounts import on_host
from slotwise.memory.footprint import HOST
from slotwise.request import Examine, Examined, GenerationRequest, SamplingParams, TextPrompt, TokenLogprob
from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.dispatcher import Dispatcher
from slotwise.scheduler.lease import Lease
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.specs import ModelSpec, PoolSize, SchedulerConfig
from slotwise.workers import child, preparer
from slotwise.workers.constraint import Constraints
from slotwise.workers.fake import FakeModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.prepared import Preparing, for_answers
from slotwise.workers.protocol import (
    Command,
    LoadModel,
    Prepare,
    Prepared,
    Ready,
    Report,
    ResizePool,
    Shutdown,
    StartSequence,
)

GREEDY = SamplingParams(temperature=0)
Step = Callable[[], None]


@dataclass(frozen=True)
class World:
    replicas: int = 2
    slots: int = 2
    cells: int = 100
    cap: int = 60
    ahead: int = 4
    kills: bool = True
    step_s: tuple[float, ...] = (0.05, 0.3)
    requests: int = 40
    #: Other pools than that of all `cells`; other programs take memory and give it back, so that they are needed.
    smaller: tuple[int, ...] = ()

    def need(self, cells: int) -> int:
        """Bytes of a worker."""
        return 10 + cells // 10


WORLDS = {
    "kills": World(),
    "few cells": World(slots=4, cells=90, ahead=2, kills=False),
    "short contexts": World(slots=4, cells=80, cap=34, ahead=2, kills=False),
    "three workers, kills": World(replicas=3, slots=3, cells=50, cap=28),
    "pools": World(slots=3, cells=120, cap=40, ahead=2, kills=False, smaller=(80, 40), step_s=(0.05, 0.1)),
    "pools, kills": World(slots=3, cells=120, cap=40, ahead=4, smaller=(80, 40)),
    "long steps": World(slots=4, ahead=2, kills=False, step_s=(0.05, 1.5)),
}


class Preparer(preparer.Preparer):
    """What the child's does, without its thread."""

    def __init__(self, prepare: Preparing) -> None:
        self._prepare = prepare
        self._cancelled = set()
        self.owed = set()

    def prepared(self, command: Prepare) -> tuple[Prepared, list[list[int]]]:
        if command.request_id in self._cancelled:
            return Prepared(command.request_id, 0), []
        made = self._prepare(command)
        if made.rest is not None:
            made.rest()
        return made.report, made.inputs


class Worker:
    """One process: its pipe, its preparer and its step loop."""

    def __init__(self, world: "Simulation", worker_id: int, load: LoadModel) -> None:
        self.world, self.id = world, worker_id
        self.model = FakeModel(load)
        constraints = Constraints(self.model.vocabulary)
        self.loop = StepLoop(self.model, timer=lambda: world.now, constraints=constraints)
        prompts = PromptPreparer(self.model.vocabulary, self.model.info.vocab_size)
        self.preparer = Preparer(for_answers(prompts, constraints))
        self.inbox: deque[Command | preparer.PreparedTokens] = deque()
        self.to_prepare: deque[Prepare] = deque()
        self.prepares = self.steps = self.dead = False
        self.heard = self.told = 0.0

    def hear(self, command: Command) -> None:
        if isinstance(command, Prepare):
            self.preparer.owed.add(command.request_id)
            self.to_prepare.append(command)
            self.prepare()
        else:
            self.inbox.append(command)
            self.wake()

    def prepare(self) -> None:
        if self.prepares or not self.to_prepare:
            return
        self.prepares = True
        command = self.to_prepare.popleft()
        report, inputs = self.preparer.prepared(command)

        def done() -> None:
            self.prepares = False
            self.inbox.append(preparer.PreparedTokens(command.request_id, inputs))
            self.tell(report)
            self.wake()
            self.prepare()

        self.after(self.world.random.choice([0.001, 0.01, 0.1]), done)

    def wake(self) -> None:
        if not self.steps:
            self.steps = True
            self.after(0.0001, self.turn)

    def turn(self) -> None:
        while self.inbox:
            item = self.inbox.popleft()
            if isinstance(item, Shutdown):
                self.world.lose(self, "exited with code 0")
                return
            if isinstance(item, ResizePool):
                self.world.resizes += 1
                self.tell(self.loop.resize(item.cells))
            else:
                child._apply(item, self.loop, self.preparer)
        if self.loop.idle:
            self.steps = False
            return
        took = self.world.random.choice(self.world.world.step_s)
        report = msgspec.structs.replace(self.loop.step(), seconds=took)
        self.loop.check_invariants()

        def done() -> None:
            self.tell(report)
            self.turn()

        self.after(took, done)

    def tell(self, report: Report) -> None:
        """In order, some time later."""
        self.told = max(self.told, self.world.now + self.world.random.choice([0.0005, 0.002]))
        self.world.at(self.told, lambda: self.world.report(self.id, report))

    def after(self, seconds: float, step: Step) -> None:
        self.world.at(self.world.now + seconds, lambda: None if self.dead else step())


class Simulation:
    """The pool of these workers, the clients, and the clock."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random, self.now = world, random.Random(seed), 0.0
        self.events: list[tuple[float, int, Step]] = []
        self.numbers = itertools.count()
        self.workers: dict[int, Worker] = {}
        self.leases: list[Lease] = []
        self.text: dict[str, str] = {}
        self.logprobs: dict[str, list[TokenLogprob]] = {}
        self.ended: set[str] = set()
        self.resizes = 0
        spec = ModelSpec(
            on_host(world.need(world.cells)),
            world.slots,
            world.cells,
            world.cap,
            replicas=world.replicas,
            smaller=tuple(PoolSize(cells, on_host(world.need(cells))) for cells in world.smaller),
        )
        self.budget = world.need(world.cells) * world.replicas
        config = SchedulerConfig(
            memory_budgets={HOST: self.budget},
            max_queue=1000,
            cells_ahead=world.ahead,
            fixed_parallel=True,
            grow_patience_s=0.2,
            least_pool_s=0.5,
        )
        self.core = Scheduler(config, {"m": spec}, {"c": KeyPolicy(max_parallel=2)})
        load = LoadModel(
            "m",
            "fake:split=1,eos_after=24",
            world.slots,
            world.cap,
            world.cells,
            n_batch=32,
            kv_layout="auto" if world.smaller else "unified",
            speculation=False,
        )
        self.dispatcher = Dispatcher(self.core, self, {"m": [load] * world.replicas}, clock=lambda: self.now)

    # ---- WorkerPool

    def start(self, worker_id: int, load: LoadModel) -> None:
        def ready() -> None:
            worker = self.workers[worker_id] = Worker(self, worker_id, load)
            worker.tell(Ready(worker.model.info))

        self.at(self.now + 0.5, ready)

    def send(self, worker_id: int, command: Command) -> None:
        if (worker := self.workers.get(worker_id)) is not None:
            worker.heard = max(worker.heard, self.now + self.random.choice([0.0005, 0.002]))
            self.at(worker.heard, lambda: None if worker.dead else worker.hear(command))

    def stop(self, worker_id: int) -> None:
        self.send(worker_id, Shutdown())

    # ---- what happens

    def at(self, when: float, step: Step) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), step))

    def report(self, worker_id: int, report: Report) -> None:
        if worker_id in self.workers:
            self.dispatcher.worker_report(worker_id, report)
        self.look()

    def lose(self, worker: Worker, reason: str) -> None:
        worker.dead = True
        del self.workers[worker.id]
        self.dispatcher.worker_lost(worker.id, reason, from_outside=reason.startswith("killed"))
        self.look()

    def kill(self) -> None:
        if self.workers and self.world.kills:
            self.lose(self.random.choice(list(self.workers.values())), "killed by signal 9 (SIGKILL)")
        self.at(self.now + self.random.choice([0.3, 1.0, 3.0, 8.0]), self.kill)

    def others_take_memory(self) -> None:
        if self.world.smaller:
            part = self.random.choice([0.5, 0.7, 1.0, 1.0])
            self.dispatcher.memory_seen({HOST: int(part * self.budget)})
        self.at(self.now + self.random.choice([0.3, 1.0, 3.0]), self.others_take_memory)

    def tick(self) -> None:
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.dispatcher._post(ev.Tick())
        self.at(self.now + 0.25, self.tick)

    def ask(self) -> None:
        number = len(self.leases)
        text = self.random.choice(["abc def ", "hello hello ", "zz "]) * self.random.randint(1, 3) + str(number)
        request = GenerationRequest(
            request_id=f"r{number}",
            model="m",
            prompt=TextPrompt(text),
            sampling=GREEDY,
            max_output_tokens=self.random.choice([3, 12, 30]),
            key=self.random.choice("aaabc"),
            ignore_eos=self.random.random() < 0.5,
            stop=self.random.choice([(), (), ("ab", "qz!", "n y")]),
            top_logprobs=self.random.choice([None, 2]),
            examine=Examine(tokens=True) if self.random.random() < 0.1 else None,
        )
        lease = self.dispatcher.lease(request)
        self.leases.append(lease)
        lease._submit(lease)
        if self.random.random() < 0.15:
            self.at(self.now + self.random.uniform(0, 5), lambda: self.leave(lease))

    def leave(self, lease: Lease) -> None:
        if lease.request.request_id not in self.ended:
            self.ended.add(lease.request.request_id)
            self.text[lease.request.request_id] = "left"
            lease._leave(lease)

    def look(self) -> None:
        """Read what came for each client."""
        self.dispatcher.check_invariants()
        for lease in self.leases:
            name = lease.request.request_id
            if name in self.ended:
                continue
            if lease._error is not None:
                self.text[name] = repr(lease._error)
                self.ended.add(name)
            for chunk in lease._unread:
                self.text[name] = self.text.get(name, "") + (repr(chunk.examined) if chunk.examined else chunk.text)
                self.logprobs.setdefault(name, []).extend(chunk.logprobs)
                if chunk.finish_reason is not None:
                    self.ended.add(name)
            lease._unread.clear()

    def run(self) -> None:
        if self.world.smaller:  # it begins with a small pool
            self.dispatcher.memory_seen({HOST: self.world.need(min(self.world.smaller)) * 3 // 2})
        self.dispatcher.preload("m")
        when = 1.0
        for _ in range(self.world.requests):
            when += self.random.choice([0.0, 0.05, 0.3, 1.0])
            self.at(when, self.ask)
        self.at(3.0, self.kill)
        self.at(0.25, self.tick)
        self.at(2.0, self.others_take_memory)
        while self.now < 600 and len(self.ended) < self.world.requests:
            self.now, _, step = heapq.heappop(self.events)
            step()

    def alone(self, request: GenerationRequest) -> tuple[str, list[TokenLogprob]]:
        """Its answer where nothing happens, and the log probabilities of each token that it has."""
        assert isinstance(request.prompt, TextPrompt)
        tokens = list(request.prompt.text.encode())
        if request.examine is not None:
            return repr(Examined(len(tokens), tuple(tokens))), []
        room = self.world.cap - len(tokens)
        if room < 1:
            return repr(ContextLengthExceeded(len(tokens), self.world.cap)), []
        loop = StepLoop(FakeModel(LoadModel("m", "fake:eos_after=24", 1, 1000, 1000, speculation=False)))
        loop.prepared("x", tokens)
        most = min(request.max_output_tokens or room, room)
        top = request.top_logprobs
        loop.start(StartSequence("x", most, GREEDY, request.stop, request.ignore_eos, top_logprobs=top))
        text = ""
        logprobs: list[TokenLogprob] = []
        while not loop.idle:
            for delta in loop.step().deltas:
                text += delta.text
                logprobs += delta.logprobs
        # One for each character of this model's: what the stop string cut off has none.
        return text, logprobs[: len(text)]


@pytest.mark.parametrize("world", WORLDS)
def test_each_answer_is_the_one_that_it_would_be_alone(world: str) -> None:
    moved = resizes = 0
    for seed in range(12):
        simulation = Simulation(WORLDS[world], seed)
        simulation.run()
        moved += simulation.dispatcher.status()[0].counters.moved_total
        resizes += simulation.resizes
        for lease in simulation.leases:
            name = lease.request.request_id
            got = simulation.text.get(name, "nothing"), simulation.logprobs.get(name, [])
            assert got[0] == "left" or got == simulation.alone(lease.request), f"seed {seed}, {name}"
        assert len(simulation.ended) == WORLDS[world].requests, f"seed {seed}: somebody waits for ever"

    assert moved, "no answer went on with another worker"
    assert bool(resizes) == bool(WORLDS[world].smaller)
