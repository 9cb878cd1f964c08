"""Any order of events: each request ends exactly once, nothing leaks, nobody is granted what is not there."""

from collections import Counter
from dataclasses import replace
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slotwise.errors import InvalidRequest
from slotwise.memory.accounts import on_host
from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.account import Account, Bound
from slotwise.scheduler.bounds import charge
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, PoolSize, SchedulerConfig

MODELS = {
    "m": ModelSpec(on_host(10), slots=3, kv_cells=60, context_cap=30),
    "n": ModelSpec(on_host(8), slots=1, kv_cells=30, context_cap=30),
    "huge": ModelSpec(on_host(99), slots=1, kv_cells=30, context_cap=30),
}
CONFIG = SchedulerConfig(max_queue=5, memory_budgets={HOST: 15}, cells_ahead=4)
POLICIES = {
    "b": KeyPolicy(weight=2.0, priority=Priority.HIGH, max_parallel=2),
    "c": KeyPolicy(max_queued=1, tokens_per_minute=200, context_cap=20),
}
FLOWS = [Flow("a", "1"), Flow("a", "2"), Flow("b"), Flow("c")]


class CoreMachine(RuleBasedStateMachine):
    """Plays the workers and the clients; its own books are the reference."""

    models: ClassVar = MODELS
    config: ClassVar = CONFIG
    #: Prompts are inputs that are computed each on its own, and write nothing.
    embeds: ClassVar = False

    def __init__(self) -> None:
        super().__init__()
        self.core = Scheduler(self.config, self.models, POLICIES)
        self.now = 0.0
        self.history: list[tuple[ev.Event, float, list[ev.Action]]] = []
        self.counter = 0
        self.open: dict[str, str] = {}  # request -> model
        self.ended: set[str] = set()
        self.booked: set[str] = set()
        self.preparing: dict[str, int] = {}  # request -> worker
        self.abandoned: dict[str, int] = {}  # cancelled while the tokenizer had them -> worker
        self.running: dict[str, int] = {}
        self.paused: dict[str, int] = {}
        #: Went on elsewhere: the worker that it was on before, whose last step may still be told.
        self.moved: dict[str, int] = {}
        self.flow: dict[str, Flow] = {}
        self.counts: set[str] = set()  # requests that want no answer
        self.cells: dict[str, int] = {}
        self.prompt: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.made: dict[str, int] = {}
        self.deaths: dict[str, int] = {}
        self.workers: dict[int, str] = {}  # worker -> "starting" | "ready" | "stopping"
        self.model_of: dict[int, str] = {}
        self.place_of: dict[int, int] = {}
        #: Cells of its pool, and those of the pool that it is making.
        self.pool: dict[int, int] = {}
        self.next_pool: dict[int, int] = {}
        #: Bytes, as long as it makes another one.
        self.at_most: dict[int, int] = {}
        self.drained = False
        self.budget = self.config.memory_budgets[HOST]

    # ---- applying actions, as the world would

    def do(self, event: ev.Event) -> None:
        actions = self.core.handle(event, self.now)
        self.history.append((event, self.now, actions))
        for action in actions:
            self.apply(action)

    def apply(self, action: ev.Action) -> None:
        match action:
            case ev.StartWorker(worker_id, model, place, cells):
                taken = {self.place_of[w] for w in self.workers if self.model_of[w] == model}
                assert place not in taken, "two workers in one place"
                assert place < self.models[model].replicas
                self.workers[worker_id], self.model_of[worker_id] = "starting", model
                self.place_of[worker_id] = place
                self.pool[worker_id] = cells or self.models[model].kv_cells
                assert self.bytes_held() <= self.budget, "memory over the budget"
                loaded = {self.model_of[w] for w in self.workers}
                assert len(loaded) <= (self.config.max_loaded or 99)
            case ev.StopWorker(worker_id):
                begun = [*self.running.items(), *self.paused.items()]
                assert not [r for r, w in begun if w == worker_id], "stopped while running"
                self.workers[worker_id] = "stopping"
            case ev.ResizePool(worker_id, cells):
                assert self.workers[worker_id] == "ready"
                assert worker_id not in self.next_pool, "two pools at once"
                before, spec = self.bytes_held(), self.models[self.model_of[worker_id]]
                self.next_pool[worker_id] = cells
                running = [r for r, w in self.running.items() if w == worker_id]
                moved = spec.cell_bytes * sum(self.cells[r] for r in running) + spec.sequence_bytes * len(running)
                pools = (self.pool[worker_id], cells)
                self.at_most[worker_id] = max(self.bytes_of(worker_id, pool) for pool in pools) + moved
                assert self.bytes_held() <= max(self.budget, before), "memory over the budget"
                self.assert_cells_are_there(worker_id)
            case ev.PreparePrompt(request_id, worker_id):
                assert self.workers[worker_id] == "ready"
                assert request_id in self.open
                self.assert_suspects_are_alone(request_id, worker_id)
                self.preparing[request_id] = worker_id
            case ev.Grant(request_id, worker_id, max_output_tokens, cells):
                assert request_id not in self.counts
                assert not self.drained or request_id in self.most, "a first grant after the drain"
                assert (max_output_tokens == 0) if self.embeds else (max_output_tokens >= 1)
                self.most[request_id] = 0 if self.embeds else self.prompt[request_id] + max_output_tokens
                if (before := self.paused.pop(request_id, worker_id)) != worker_id:
                    told = self.history[-1][2][: self.history[-1][2].index(action)]
                    assert ev.CancelSequence(request_id, before) in told, "two workers have it"
                    self.moved[request_id] = before
                self.grant(request_id, worker_id, cells)
            case ev.ExtendSequence(request_id, worker_id, cells):
                assert self.running[request_id] == worker_id
                assert self.cells[request_id] < cells <= self.most[request_id]
                self.cells[request_id] = cells
                self.assert_cells_are_there(worker_id)
            case ev.PauseSequence(request_id, worker_id):
                assert self.running.pop(request_id) == worker_id
                assert request_id in self.open
                self.paused[request_id] = worker_id
            case ev.ResumeSequence(request_id, worker_id, cells):
                assert self.paused.pop(request_id) == worker_id
                self.grant(request_id, worker_id, cells)
            case ev.EndRequest(request_id):
                if request_id in self.preparing:  # the tokenizer goes on with it all the same
                    self.abandoned[request_id] = self.preparing[request_id]
                self.end(request_id)
            case ev.BookUsage(request_id):
                assert request_id not in self.booked, "booked twice"
                assert request_id not in self.counts or (action.prompt_tokens, action.output_tokens) == (0, 0)
                self.booked.add(request_id)
            case ev.CancelSequence(request_id, worker_id):
                assert worker_id in self.workers

    def assert_cells_are_there(self, worker_id: int) -> None:
        held = sum(self.cells[r] for r, worker in self.running.items() if worker == worker_id)
        assert held <= min(self.pool[worker_id], self.next_pool.get(worker_id, 99))

    def bytes_of(self, worker_id: int, cells: int) -> int:
        sizes = self.models[self.model_of[worker_id]].sizes
        return next(size.need(0)[HOST] for size in sizes if size.cells == cells)

    def bytes_held(self) -> int:
        return sum(self.at_most.get(w) or self.bytes_of(w, self.pool[w]) for w in self.workers)

    def grant(self, request_id: str, worker_id: int, cells: int) -> None:
        assert self.workers[worker_id] == "ready"
        assert request_id in self.open
        assert request_id not in self.running
        assert request_id not in self.paused
        policy = POLICIES.get(self.flow[request_id].key, KeyPolicy())
        of_key = [r for r in self.running if self.flow[r].key == self.flow[request_id].key]
        assert len(of_key) < (policy.max_parallel or 99)
        spec = self.models[self.model_of[worker_id]]
        beside = [r for r, w in self.running.items() if w == worker_id]
        assert len(beside) < spec.slots
        has = self.prompt[request_id] + self.made.get(request_id, 0)
        if self.embeds:
            assert cells == 0
            assert (has + 1) // 2 <= min(spec.context_cap, policy.context_cap or 99)
        else:
            assert self.most[request_id] <= min(spec.context_cap, policy.context_cap or 99)
            assert has < cells <= self.most[request_id], "not even the next token has a cell"
        self.assert_suspects_are_alone(request_id, worker_id)
        self.running[request_id], self.cells[request_id] = worker_id, cells
        self.assert_cells_are_there(worker_id)

    def assert_suspects_are_alone(self, request_id: str, worker_id: int) -> None:
        at_work = [r for books in (self.preparing, self.abandoned, self.running) for r, w in books.items()]
        others = [r for r in at_work if r != request_id and self.worker_at_work(r) == worker_id]
        assert not others or not any(self.deaths.get(r) for r in [*others, request_id]), "a suspect is not alone"

    def worker_at_work(self, request_id: str) -> int | None:
        found = (books.get(request_id) for books in (self.preparing, self.abandoned, self.running))
        return next((worker_id for worker_id in found if worker_id is not None), None)

    def end(self, request_id: str) -> None:
        assert request_id not in self.ended, "a request ended twice"
        self.ended.add(request_id)
        for books in (self.open, self.preparing, self.running, self.paused, self.cells):
            books.pop(request_id, None)

    # ---- what happens

    @rule(
        model=st.sampled_from(["m", "m", "m", "n", "n", "huge", "unknown"]),
        limit=st.sampled_from([None, 1, 5, 5, 10, 10, 15, 40]),
        flow=st.sampled_from(FLOWS),
        priority=st.none() | st.sampled_from(Priority),
        characters=st.integers(0, 100),
        max_wait=st.sampled_from([None, None, None, None, 0.0, 3.0, 60.0]),
        counts=st.sampled_from([False, False, False, True]),
    )
    def submit(
        self,
        model: str,
        limit: int | None,
        flow: Flow,
        priority: Priority | None,
        characters: int,
        max_wait: float | None,
        counts: bool = False,
    ) -> None:
        self.counter += 1
        request_id = f"r{self.counter}"
        self.open[request_id], self.flow[request_id] = model, flow
        if counts:
            self.counts.add(request_id)
        submitted = ev.RequestSubmitted(request_id, model, limit, flow, priority, characters, max_wait, counts=counts)
        # Any third one is held to a grammar.
        self.do(replace(submitted, constrained=not counts and self.counter % 3 == 0))

    @rule(flow=st.sampled_from(FLOWS), count=st.integers(2, 4), output=st.integers(1, 10))
    def submit_many(self, flow: Flow, count: int, output: int) -> None:
        """One flow takes all slots, and the others are owed some."""
        for _ in range(count):
            self.submit("m", output, flow, None, 12, None)
        self.everybody_gets_a_slot_who_can()
        self.now += 2.0

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), rows=st.integers(0, 3), prompt=st.integers(0, 50), seconds=st.floats(0, 2))
    def stepped(self, data: st.DataObject, rows: int, prompt: int, seconds: float) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        mine = sorted(r for r, worker in self.running.items() if worker == worker_id and self.has_a_cell(r))[:rows]
        mine += [r for r, before in self.moved.items() if before == worker_id and r in self.running]
        self.moved = {r: before for r, before in self.moved.items() if before != worker_id}
        mine = [request_id for request_id in mine if self.has_a_cell(request_id)]
        for request_id in mine:
            self.made[request_id] = self.made.get(request_id, 0) + 1
        self.do(ev.StepDone(worker_id, rows, prompt, tuple((request_id, 1) for request_id in mine), seconds))

    def has_a_cell(self, request_id: str) -> bool:
        """The last token of an answer comes with its end."""
        has = self.prompt[request_id] + self.made.get(request_id, 0)
        return has < self.cells[request_id] and has + 1 < self.most[request_id]

    @precondition(lambda self: self.preparing)
    @rule(data=st.data(), tokens=st.integers(1, 35))
    def priced(self, data: st.DataObject, tokens: int) -> None:
        self.is_tokenised(data.draw(st.sampled_from(sorted(self.preparing))), tokens)

    def is_tokenised(self, request_id: str, tokens: int) -> None:
        """One that is only counted is over by it, however long it is."""
        del self.preparing[request_id]
        if request_id in self.counts:
            self.end(request_id)
            tokens *= 10
        self.prompt[request_id] = tokens
        self.do(self.price(request_id, tokens))

    def price(self, request_id: str, tokens: int) -> ev.RequestPriced:
        """Inputs are two of about the same length."""
        longest = ev.Longest((tokens + 1) // 2, 0) if self.embeds else None
        return ev.RequestPriced(request_id, tokens, longest)

    @precondition(lambda self: self.abandoned)
    @rule(data=st.data(), refused=st.booleans())
    def tokenizer_is_through_with_a_cancelled_prompt(self, data: st.DataObject, refused: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.abandoned)))
        del self.abandoned[request_id]
        refusal = ev.PrepareRefused(request_id, InvalidRequest("no", param="messages"))
        self.do(refusal if refused else ev.RequestPriced(request_id, 0))

    @precondition(lambda self: self.running or self.paused)
    @rule(data=st.data(), tokens=st.integers(0, 30), complete=st.booleans())
    def finished(self, data: st.DataObject, tokens: int, complete: bool) -> None:
        """Also in the step after which it was to be paused."""
        request_id = data.draw(st.sampled_from(sorted([*self.running, *self.paused])))
        self.end(request_id)
        self.do(ev.SequenceFinished(request_id, tokens, 0, tokens, complete))

    @precondition(lambda self: self.open or self.ended)
    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.preparing or [*self.open, *self.ended])))
        if request_id in self.preparing:
            self.abandoned[request_id] = self.preparing[request_id]
        if request_id in self.open and request_id not in self.running:
            self.end(request_id)
        self.do(ev.RequestCancelled(request_id))

    @precondition(lambda self: "starting" in self.workers.values())
    @rule(data=st.data(), fails=st.integers(0, 9))
    def loaded(self, data: st.DataObject, fails: int) -> None:
        starting = [worker for worker, state in self.workers.items() if state == "starting"]
        worker_id = data.draw(st.sampled_from(starting))
        if fails == 0:
            self.do(ev.WorkerStartFailed(worker_id, "broken file"))
            return
        self.is_ready(worker_id)

    def is_ready(self, worker_id: int) -> None:
        spec = self.models[self.model_of[worker_id]]
        self.workers[worker_id] = "ready"
        self.do(ev.WorkerReady(worker_id, spec.slots, self.pool[worker_id], spec.context_cap))

    @precondition(lambda self: self.next_pool)
    @rule(data=st.data(), done=st.sampled_from([True, True, True, False]))
    def resized(self, data: st.DataObject, done: bool) -> None:
        self.has_another_pool(data.draw(st.sampled_from(sorted(self.next_pool))), done=done)

    def has_another_pool(self, worker_id: int, *, done: bool = True) -> None:
        """Or could not make it."""
        cells = self.next_pool.pop(worker_id)
        del self.at_most[worker_id]
        if done:
            self.pool[worker_id] = cells
        cap = self.models[self.model_of[worker_id]].context_cap
        self.do(ev.PoolResized(worker_id, self.pool[worker_id], cap, done))

    def forget_pool(self, worker_id: int) -> None:
        for books in (self.pool, self.next_pool, self.at_most):
            books.pop(worker_id, None)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), really=st.integers(0, 3), from_outside=st.booleans())
    def lost(self, data: st.DataObject, really: int, from_outside: bool) -> None:
        if really:
            return  # it is no use to lose them all the time
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        crashed = self.workers.pop(worker_id) != "stopping"
        self.forget_pool(worker_id)
        at_work = [r for books in (self.preparing, self.running) for r, w in books.items() if w == worker_id]
        self.paused = {r: w for r, w in self.paused.items() if w != worker_id}
        self.abandoned = {r: w for r, w in self.abandoned.items() if w != worker_id}
        cancelled = {e.request_id for e, _, _ in self.history if isinstance(e, ev.RequestCancelled)}
        for request_id in at_work:
            self.preparing.pop(request_id, None)
            self.running.pop(request_id, None)
            if request_id in cancelled:
                self.end(request_id)
            elif crashed and not from_outside:
                self.deaths[request_id] = self.deaths.get(request_id, 0) + 1
                assert self.deaths[request_id] <= 2
        self.do(ev.WorkerLost(worker_id, "killed", from_outside))
        for request_id in at_work:
            assert self.deaths.get(request_id, 0) < 2 or request_id in self.ended, "not refused as poison"

    @rule(seconds=st.sampled_from([0.0, 0.3, 2.0, 6.0, 70.0, -1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(ev.Tick())

    @rule(model=st.sampled_from(["m", "n"]))
    def preload(self, model: str) -> None:
        self.do(ev.PreloadRequested(model))

    @rule(model=st.sampled_from(["m", "n", "n", "huge"]))
    def unload(self, model: str) -> None:
        """Nobody who runs or waits is cut for it: `apply` looks, and the end of the run."""
        self.do(ev.UnloadRequested(model))
        if self.core.model_status(model).state == "ready" and not self.models[model].pinned and not self.drained:
            assert model in self.open.values(), "it is idle, and stays"

    @rule(budget=st.sampled_from([5, 9, 15, 15, 100]))
    def others_take_memory_and_give_it_back(self, budget: int) -> None:
        self.budget = min(budget, self.config.memory_budgets[HOST])
        self.do(ev.MemorySeen({HOST: budget}))

    @precondition(lambda self: self.counter > 12)
    @rule()
    def drain(self) -> None:
        self.drained = True
        self.do(ev.DrainRequested())

    # ---- what stays true

    @invariant()
    def books_agree(self) -> None:
        self.core.check_invariants()
        for model in self.models:
            status = self.core.model_status(model)
            workers = [w for w in self.workers if self.model_of[w] == model]
            held = [r for r, w in self.running.items() if w in workers]
            assert status.busy_slots == len(held)
            assert status.reserved_cells == sum(self.cells[r] for r in held)
            short = [r for r in held if self.prompt[r] + self.made.get(r, 0) >= self.cells[r] < self.most[r]]
            leaving = {e.request_id for e, _, _ in self.history if isinstance(e, ev.RequestCancelled)}
            assert not short or leaving & set(held), "somebody stands still though others could make room"
        answers = {r: m for r, m in self.open.items() if r not in self.counts}
        of_model = {model: [r for r, m in answers.items() if m == model] for model in self.models}
        # More may wait than may, once a worker is gone.
        most = {model: spec.slots * spec.replicas for model, spec in self.models.items()}
        queued = sum(max(0, len(requests) - most[model]) for model, requests in of_model.items())
        assert queued <= self.config.max_queue

    @invariant()
    def who_is_only_counted_waits_for_no_slot(self) -> None:
        """Wherever a worker takes what is new, its tokenizer has two of them, or others that were cancelled."""
        for name, model in self.core._models.items():
            waiting = [r for r, m in self.open.items() if m == name and r in self.counts and r not in self.preparing]
            counted = [w for r, w in self.preparing.items() if r in self.counts]
            busy = Counter([*counted, *self.abandoned.values()])
            takes = [worker for worker in model.open if worker.alone is None]
            assert not waiting or model.suspects or all(busy[worker.worker_id] >= 2 for worker in takes)

    @invariant()
    def who_is_on_its_way_is_told_where_it_stands(self) -> None:
        for name in self.ended:
            assert self.core.outlook.standing(name, self.now) is None
        standings = {name: self.core.outlook.standing(name, self.now) for name in self.open}
        for name, standing in standings.items():
            assert standing is not None
            assert (standing.state == "running") == (name in self.running)
            assert name not in self.paused or standing.state == "paused"
            assert standing.waited_s >= 0.0
            if name in self.running:
                assert standing.position is None
            else:
                assert standing.position is not None
                assert 1 <= standing.position <= len(self.open)
        for model in self.models:
            for flow in FLOWS:
                requests, tokens = self.core.outlook.allowance(flow.key, model, self.now)
                assert requests is None or 0 <= requests.remaining <= requests.limit
                assert tokens is None or 0 <= tokens.remaining <= tokens.limit

    @invariant()
    def ticks_are_not_asked_for_in_a_circle(self) -> None:
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.do(ev.Tick())
            after = self.core.next_deadline()
            assert after is None or after > self.now, "a tick at the deadline changed nothing"

    @invariant()
    def what_binds_agrees_with_the_books(self) -> None:
        """Of each model, by these books."""
        for name in self.models:
            account = Account()
            charge(account, self.core._models[name], 1.0)
            (bound,) = [one for one, seconds in account.bound.items() if seconds]
            open_ = {r for r, model in self.open.items() if model == name}
            waiting = open_ - self.running.keys() - self.counts
            ready = [w for w, state in self.workers.items() if state == "ready" and self.model_of[w] == name]
            running = [r for r, w in self.running.items() if self.model_of[w] == name]
            # One that only wants to be counted may have killed a worker, too.
            suspected = {r for r in open_ & self.counts if self.deaths.get(r)}
            assert len(waiting) <= account.waiting_s <= len(waiting | suspected)
            assert account.busy_s == account.most_busy == len(running)
            assert account.reserved_s == sum(self.cells[r] for r in running)
            if not ready:
                assert (bound in (Bound.LOAD, Bound.MEMORY)) == bool(open_)
                assert bound in (Bound.LOAD, Bound.MEMORY, Bound.NOTHING)
                continue
            assert (bound in (Bound.NOTHING, Bound.PROMISED_CELLS)) == (not account.waiting_s)
            assert bound is not Bound.LOAD
            if bound is Bound.SLOTS:
                assert len(running) >= self.models[name].slots
            if bound in (Bound.CELLS, Bound.KEY_LIMITS, Bound.PROMISED_CELLS, Bound.ACTIVE_LIMIT):
                assert len(running) < len(ready) * self.models[name].slots

    def teardown(self) -> None:
        """Workers behave from here on: everything must come to an end. Then the same events, the same actions."""
        self.others_take_memory_and_give_it_back(100)
        for _ in range(400):
            if not self.open:
                break
            self.world_goes_on()
        assert not self.open, f"never ended: {self.open} {self.core!r}"
        known = {
            e.request_id for e, _, _ in self.history if isinstance(e, ev.RequestSubmitted) and e.model in self.models
        }
        assert self.booked == known & self.ended
        again = Scheduler(self.config, self.models, POLICIES)
        for event, now, actions in self.history:
            assert [_plain(a) for a in again.handle(event, now)] == [_plain(a) for a in actions]

    def world_goes_on(self) -> None:
        self.everybody_gets_a_slot_who_can()
        for request_id in list(self.running):
            if request_id in self.running:
                self.end(request_id)
                self.do(ev.SequenceFinished(request_id))
        # Nobody looks but when it is asked for.
        deadline = self.core.next_deadline()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.do(ev.Tick())

    @rule()
    def everybody_gets_a_slot(self) -> None:
        self.everybody_gets_a_slot_who_can()

    def everybody_gets_a_slot_who_can(self, tokens: int = 3) -> None:
        """Workers come up and prompts are tokenised, so that what follows happens among requests that run."""
        for worker_id, state in list(self.workers.items()):
            if state == "starting":
                self.is_ready(worker_id)
            elif state == "stopping":
                del self.workers[worker_id]
                self.forget_pool(worker_id)
                self.abandoned = {r: w for r, w in self.abandoned.items() if w != worker_id}
                for request_id in [r for r, w in self.preparing.items() if w == worker_id]:
                    del self.preparing[request_id]
                self.do(ev.WorkerLost(worker_id, "asked for"))
        for worker_id in list(self.next_pool):
            if worker_id in self.next_pool:
                self.has_another_pool(worker_id)
        for request_id in list(self.abandoned):
            if self.abandoned.pop(request_id, None) is not None:
                self.do(ev.RequestPriced(request_id, 0))
        for request_id in list(self.preparing):
            if request_id in self.preparing:
                self.is_tokenised(request_id, tokens)


def _plain(action: ev.Action) -> object:
    return (action.request_id, str(action.error)) if isinstance(action, ev.EndRequest) else action


class ReplicasMachine(CoreMachine):
    """Models may have several workers, where there is memory."""

    models: ClassVar = {
        "m": ModelSpec(on_host(10), slots=2, kv_cells=60, context_cap=30, replicas=3),
        "n": ModelSpec(on_host(8), slots=1, kv_cells=30, context_cap=30, replicas=2),
        "huge": ModelSpec(on_host(99), slots=1, kv_cells=30, context_cap=30),
    }
    config: ClassVar = SchedulerConfig(max_queue=5, memory_budgets={HOST: 30}, cells_ahead=4)


class OneModelMachine(CoreMachine):
    """There is memory for all, and one may be loaded at a time; the other goes soon when nobody uses it."""

    models: ClassVar = {
        "m": ModelSpec(on_host(10), slots=2, kv_cells=60, context_cap=30, replicas=2, keep_alive_s=3.0),
        "n": ModelSpec(on_host(8), slots=1, kv_cells=30, context_cap=30, keep_alive_s=0.0),
        "huge": ModelSpec(on_host(999), slots=1, kv_cells=30, context_cap=30),
    }
    config: ClassVar = SchedulerConfig(max_queue=5, memory_budgets={HOST: 100}, cells_ahead=4, max_loaded=1)


class PoolsMachine(CoreMachine):
    """Pools of several sizes, and memory for the largest of one model beside the smallest of the other."""

    models: ClassVar = {
        "m": ModelSpec(
            on_host(14),
            slots=3,
            kv_cells=90,
            context_cap=30,
            smaller=(PoolSize(48, on_host(9)), PoolSize(30, on_host(7))),
            sequence_bytes=1,
        ),
        "n": ModelSpec(
            on_host(12), slots=2, kv_cells=60, context_cap=30, smaller=(PoolSize(30, on_host(6)),), keep_alive_s=1.0
        ),
        "huge": ModelSpec(
            on_host(999), slots=2, kv_cells=60, context_cap=30, smaller=(PoolSize(30, on_host(99)),), pinned=True
        ),
    }
    config: ClassVar = SchedulerConfig(
        max_queue=5, memory_budgets={HOST: 17}, cells_ahead=4, grow_patience_s=0.5, least_pool_s=1.0
    )

    @rule(tokens=st.integers(8, 20), flow=st.sampled_from(FLOWS))
    def long_prompts_come(self, tokens: int, flow: Flow) -> None:
        """Fewer of them have room than there are slots."""
        for _ in range(3):
            self.submit("m", 10, flow, None, 4 * tokens, None)
        self.everybody_gets_a_slot_who_can(tokens)
        for _ in range(2):
            self.now += 0.6
            self.do(ev.Tick())


class InputsMachine(CoreMachine):
    """Models that embed: slots are all that is scarce."""

    embeds: ClassVar = True
    models: ClassVar = {
        "m": ModelSpec(on_host(10), slots=3, kv_cells=20, context_cap=15, replicas=2),
        "n": ModelSpec(on_host(8), slots=1, kv_cells=15, context_cap=15),
        "huge": ModelSpec(on_host(99), slots=1, kv_cells=15, context_cap=15),
    }
    config: ClassVar = SchedulerConfig(max_queue=5, memory_budgets={HOST: 25})

    @rule(tokens=st.sampled_from([25, 29, 31]), flow=st.sampled_from(FLOWS))
    def many_inputs_come(self, tokens: int, flow: Flow) -> None:
        """More tokens than there are cells, and with 31 one input that is too long."""
        self.submit("m", 0, flow, None, 4 * tokens, None)
        self.everybody_gets_a_slot_who_can(tokens)


TestCore = CoreMachine.TestCase
TestCore.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)
TestOneModel = OneModelMachine.TestCase
TestOneModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestPools = PoolsMachine.TestCase
TestPools.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)
TestReplicas = ReplicasMachine.TestCase
TestReplicas.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestInputs = InputsMachine.TestCase
TestInputs.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
