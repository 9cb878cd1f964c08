"""A core with a clock, for tests that look at one decision at a time."""

from typing import Protocol

from slotwise.errors import SlotwiseError
from slotwise.memory.accounts import on_host
from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import Policies
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig

SPEC = ModelSpec(on_host(10), slots=2, kv_cells=100, context_cap=60)


class Driver:
    """A core with a clock, and shorthand for what happens to it."""

    def __init__(
        self,
        config: SchedulerConfig | None = None,
        models: dict[str, ModelSpec] | None = None,
        policies: Policies | None = None,
    ) -> None:
        self.core = Scheduler(config or SchedulerConfig(), models or {"m": SPEC}, policies)
        self.now = 0.0
        #: What requests took that are over, by name.
        self.usage: dict[str, ev.BookUsage] = {}

    def do(self, event: ev.Event) -> list[ev.Action]:
        """Returns what is to be done, but for the books."""
        actions = self.core.handle(event, self.now)
        self.core.check_invariants()
        for usage in (action for action in actions if isinstance(action, ev.BookUsage)):
            assert usage.request_id not in self.usage, "booked twice"
            self.usage[usage.request_id] = usage
        return [action for action in actions if not isinstance(action, ev.BookUsage)]

    def submit(
        self,
        name: str,
        model: str = "m",
        max_output: int | None = 10,
        key: str = "",
        priority: Priority | None = None,
        max_wait: float | None = None,
    ) -> list[ev.Action]:
        return self.do(ev.RequestSubmitted(name, model, max_output, Flow(key), priority, 40, max_wait))

    def count(self, name: str, model: str = "m", key: str = "", max_wait: float | None = None) -> list[ev.Action]:
        """It wants no answer."""
        return self.do(ev.RequestSubmitted(name, model, None, Flow(key), None, 40, max_wait, counts=True))

    def ready(self, worker_id: int = 1) -> list[ev.Action]:
        return self.do(ev.WorkerReady(worker_id, 2, 100, 60))

    def price(self, name: str, tokens: int = 10) -> list[ev.Action]:
        return self.do(ev.RequestPriced(name, tokens))

    def run(
        self,
        name: str,
        tokens: int = 10,
        model: str = "m",
        max_output: int | None = 10,
        key: str = "",
        priority: Priority | None = None,
        max_wait: float | None = None,
    ) -> list[ev.Action]:
        """Submit and price on a ready worker."""
        self.submit(name, model, max_output, key, priority, max_wait)
        return self.price(name, tokens)

    def lose(self, worker_id: int = 1, *, from_outside: bool = False) -> list[ev.Action]:
        return self.do(ev.WorkerLost(worker_id, "killed", from_outside))

    def said(self, *names: str, worker_id: int = 1, tokens: int = 1, seconds: float = 0.1) -> list[ev.Action]:
        """A step gave each of them so many tokens."""
        return self.do(ev.StepDone(worker_id, len(names), 0, tuple((name, tokens) for name in names), seconds))

    def tick(self, seconds: float) -> list[ev.Action]:
        self.now += seconds
        return self.do(ev.Tick())


def error_of(actions: list[ev.Action], name: str) -> SlotwiseError:
    (error,) = [a.error for a in actions if isinstance(a, ev.EndRequest) and a.request_id == name]
    return error


class Ticked(Protocol):
    """A core with a clock."""

    core: Scheduler
    now: float

    def do(self, event: ev.Event) -> object: ...


def pass_time(world: Ticked, seconds: float, *, most_ticks: int) -> None:
    """Ticks when the core asks for them, never more than one at a time."""
    end = world.now + seconds
    for _ in range(most_ticks):
        deadline = world.core.next_deadline()
        if deadline is None or deadline > end:
            world.now = end
            return
        world.now = max(world.now, deadline)
        world.do(ev.Tick())
    raise AssertionError("ticks are asked for in a circle")
