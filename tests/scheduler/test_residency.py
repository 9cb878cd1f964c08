"""Whose memory is taken for whom: requests make others go, preloads do not, and nobody goes for nothing."""

from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.records import ModelSpec, SchedulerConfig


class World:
    """A core whose workers load, answer and stop at once. Counts the loads."""

    def __init__(self, budget: int, **memory_bytes: int) -> None:
        models = {name: ModelSpec(size, 2, 100, 60) for name, size in memory_bytes.items()}
        self.core = Scheduler(SchedulerConfig(memory_budget_bytes=budget, memory_patience_s=5), models)
        self.now = 0.0
        self.loads: list[str] = []
        self.granted: list[str] = []

    def do(self, event: ev.Event, *, limit: int = 100) -> None:
        """The event and all that follows from it, `limit` events at most."""
        events = [event]
        for _ in range(limit):
            if not events:
                return
            for action in self.core.handle(events.pop(0), self.now):
                match action:
                    case ev.StartWorker(worker_id, model):
                        self.loads.append(model)
                        events.append(ev.WorkerReady(worker_id, 2, 100, 60))
                    case ev.StopWorker(worker_id):
                        events.append(ev.WorkerLost(worker_id, "asked for"))
                    case ev.PreparePrompt(request_id):
                        events.append(ev.RequestPriced(request_id, 5))
                    case ev.Grant(request_id):
                        self.granted.append(request_id)
            self.core.check_invariants()
        raise AssertionError(f"no end: {self.loads}")

    def submit(self, name: str, model: str) -> None:
        self.do(ev.RequestSubmitted(name, model, 5))

    def finish(self, name: str) -> None:
        self.do(ev.SequenceFinished(name, 5))

    def serve(self, name: str, model: str) -> None:
        self.submit(name, model)
        self.finish(name)

    def pass_time(self, seconds: float) -> None:
        """Ticks when the core asks for them, never more than one at a time."""
        end = self.now + seconds
        for _ in range(100):
            deadline = self.core.next_deadline()
            if deadline is None or deadline > end:
                self.now = end
                return
            self.now = max(self.now, deadline)
            self.do(ev.Tick())
        raise AssertionError("ticks are asked for in a circle")


def test_preloads_that_do_not_fit_together_do_not_push_each_other_out() -> None:
    world = World(15, m=10, n=10)

    world.do(ev.PreloadRequested("m"))
    world.do(ev.PreloadRequested("n"))
    world.pass_time(600)

    assert world.loads == ["m"]


def test_a_preloaded_model_that_made_room_does_not_come_back_uncalled() -> None:
    world = World(15, m=10, n=10)
    world.do(ev.PreloadRequested("m"))

    for number in range(5):
        world.serve(f"r{number}", "n")
        world.pass_time(600)

    assert world.loads == ["m", "n"]


def test_a_preload_is_made_good_when_memory_comes_free() -> None:
    world = World(20, m=10, n=10, big=15)
    world.serve("a", "big")
    world.do(ev.PreloadRequested("m"))
    assert world.loads == ["big"]

    world.serve("b", "n")
    world.pass_time(1)

    assert sorted(world.loads) == ["big", "m", "n"]


def test_a_preloaded_model_is_restarted_after_a_crash() -> None:
    world = World(15, m=10)
    world.do(ev.PreloadRequested("m"))

    world.do(ev.WorkerLost(1, "killed"))

    assert world.loads == ["m", "m"]


def test_an_idle_model_stays_while_its_going_would_not_be_enough() -> None:
    world = World(30, a=10, b=10, c=25)
    world.submit("busy", "a")
    world.serve("done", "b")

    world.submit("waits", "c")

    assert world.core.model_status("b").state == "ready"
    world.serve("b again", "b")
    assert world.loads == ["a", "b"]


def test_a_model_that_needs_several_to_go_gets_its_turn_after_its_patience() -> None:
    world = World(30, a=10, b=10, c=25)
    world.submit("busy", "a")
    world.serve("done", "b")
    world.submit("waits", "c")

    world.pass_time(6)
    world.finish("busy")

    assert world.loads == ["a", "b", "c"]
    assert world.granted[-1] == "waits"
