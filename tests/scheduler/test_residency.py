"""Whose memory is taken for whom: requests make others go, preloads do not, and nobody goes for nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest

from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from tests.scheduler.driver import pass_time

GPU = 0
CONFIG = SchedulerConfig(memory_patience_s=5, least_stay_s=0.0)


def _spec(size: int, device: int = HOST, **more: Any) -> ModelSpec:
    return ModelSpec(({device: size},), 2, 100, 60, **more)


class World:
    """A core whose workers load, answer and stop at once. Counts the loads."""

    def __init__(self, budget: int, *, config: SchedulerConfig = CONFIG, **models: int | ModelSpec) -> None:
        """`models`: what they take of main memory, or all that is to be known."""
        specs = {name: _spec(one) if isinstance(one, int) else one for name, one in models.items()}
        self.core = Scheduler(replace(config, memory_budgets={HOST: budget, GPU: budget}), specs)
        self.now = 0.0
        self.loads: list[str] = []
        self.granted: list[str] = []
        self.errors: list[str] = []
        #: What a load takes.
        self.load_s = 0.0

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
                        self.now += self.load_s
                        events.append(ev.WorkerReady(worker_id, 2, 100, 60))
                    case ev.StopWorker(worker_id):
                        events.append(ev.WorkerLost(worker_id, "asked for"))
                    case ev.PreparePrompt(request_id):
                        events.append(ev.RequestPriced(request_id, 5))
                    case ev.Grant(request_id):
                        self.granted.append(request_id)
                    case ev.EndRequest(_, error) if error is not None:
                        self.errors.append(str(error))
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
        pass_time(self, seconds, most_ticks=100)


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


# ---- who goes, and when


def test_two_that_are_asked_in_turn_are_not_loaded_for_each_request() -> None:
    """The bound: a model that was loaded stays for two seconds, so of a minute's requests at most thirty load one."""
    world = World(15, config=replace(CONFIG, least_stay_s=2.0), m=10, n=10)

    for number in range(120):
        world.submit(f"r{number}", "mn"[number % 2])
        world.pass_time(0.5)
        served, world.granted = world.granted, []
        for name in served:
            world.finish(name)
    while world.granted:
        world.finish(world.granted.pop())
        world.pass_time(3)

    assert 10 <= len(world.loads) <= 32
    assert world.core.idle, "and each of them is served"


def test_a_model_that_took_long_to_load_stays_three_times_as_long() -> None:
    world = World(15, config=replace(CONFIG, least_stay_s=2.0), m=10, n=10)
    world.load_s = 10.0
    world.serve("a", "m")
    world.load_s = 0.0

    world.submit("b", "n")
    world.pass_time(29)
    assert world.loads == ["m"]
    world.pass_time(2)

    assert world.loads == ["m", "n"]


def test_who_is_quick_to_load_again_goes_before_who_is_not() -> None:
    """Both idle for about as long; the one took ten seconds."""
    world = World(25, m=10, slow=10, n=10)
    world.load_s = 10.0
    world.serve("a", "slow")
    world.load_s = 1.0
    world.serve("b", "m")
    world.pass_time(100)

    world.submit("c", "n")

    assert world.core.model_status("slow").state == "ready"
    assert world.loads == ["slow", "m", "n"]


def test_what_is_pinned_stays() -> None:
    world = World(15, m=_spec(10, pinned=True, keep_alive_s=1.0), n=10)
    world.serve("a", "m")

    world.submit("b", "n")
    world.pass_time(600)

    assert world.loads == ["m"]
    assert world.core.next_deadline() is None


def test_what_nobody_uses_is_unloaded_after_its_time() -> None:
    world = World(15, m=_spec(10, keep_alive_s=30.0))
    world.do(ev.PreloadRequested("m"))
    world.pass_time(20)
    world.serve("a", "m")

    world.pass_time(29)
    assert world.core.model_status("m").state == "ready"
    world.pass_time(2)

    assert world.core.model_status("m").state == "unloaded"
    world.serve("b", "m")
    assert world.loads == ["m", "m"], "and comes back for whoever wants it"


def test_while_somebody_uses_it_it_stays() -> None:
    world = World(15, m=_spec(10, keep_alive_s=0.0))
    world.submit("a", "m")

    world.pass_time(600)
    assert world.core.model_status("m").state == "ready"
    world.finish("a")

    assert world.core.model_status("m").state == "unloaded", "not a moment longer"


def test_a_request_may_say_how_long_its_model_is_kept() -> None:
    world = World(15, m=_spec(10, keep_alive_s=30.0))
    world.do(ev.RequestSubmitted("a", "m", 5, keep_alive_s=100.0))
    world.finish("a")
    world.pass_time(99)
    assert world.core.model_status("m").state == "ready"

    world.do(ev.RequestSubmitted("b", "m", 5, keep_alive_s=math.inf))
    world.finish("b")
    assert world.core.next_deadline() is None

    world.do(ev.RequestSubmitted("c", "m", 5, keep_alive_s=0.0))
    world.finish("c")
    assert world.core.model_status("m").state == "unloaded"


def test_what_a_request_said_of_its_model_holds_until_it_is_unloaded() -> None:
    world = World(15, m=_spec(10, keep_alive_s=30.0))
    world.do(ev.RequestSubmitted("a", "m", 5, keep_alive_s=0.0))
    world.finish("a")
    assert world.core.model_status("m").state == "unloaded"

    world.serve("b", "m")

    assert world.core.model_status("m").state == "ready", "as it is configured"
    assert world.core.expires_in("m", world.now) == 30.0
    world.pass_time(31)
    assert world.core.model_status("m").state == "unloaded"


def test_it_is_known_when_a_model_will_be_unloaded() -> None:
    world = World(30, m=_spec(10, keep_alive_s=30.0), n=_spec(10, keep_alive_s=None), p=_spec(5, pinned=True))
    assert world.core.expires_in("m", world.now) is None, "it is not loaded"

    world.submit("a", "m")
    world.pass_time(100)
    assert world.core.expires_in("m", world.now) == 30.0, "in use: as if it ended now"
    world.finish("a")
    world.pass_time(20)
    assert world.core.expires_in("m", world.now) == 10.0

    for model in ("n", "p"):
        world.serve(model, model)
        assert world.core.expires_in(model, world.now) is None, "it is kept"


def test_what_is_told_to_go_and_idle_goes_at_once_and_comes_back_for_whoever_asks() -> None:
    world = World(15, m=10)
    world.do(ev.PreloadRequested("m"))

    world.do(ev.UnloadRequested("m"))
    assert world.core.model_status("m").state == "unloaded"
    world.pass_time(600)
    assert world.loads == ["m"], "the preload was taken back"

    world.serve("a", "m")
    world.pass_time(600)
    assert world.core.model_status("m").state == "ready", "it was told to go once"


def test_what_is_told_to_go_serves_what_runs_and_waits_first() -> None:
    world = World(15, m=10)
    for name in ("a", "b", "c"):  # two slots
        world.submit(name, "m")

    world.do(ev.UnloadRequested("m"))
    world.finish("a")
    world.submit("d", "m")  # who comes meanwhile is served too
    for name in ("b", "c"):
        world.finish(name)
        assert world.core.model_status("m").state == "ready"
    world.finish("d")

    assert world.core.model_status("m").state == "unloaded"
    assert world.granted == ["a", "b", "c", "d"]
    assert world.errors == []


def test_a_load_that_nobody_waits_for_is_broken_off() -> None:
    core = Scheduler(replace(CONFIG, memory_budgets={HOST: 15}), {"m": _spec(10)})
    core.handle(ev.PreloadRequested("m"), 0.0)

    assert core.handle(ev.UnloadRequested("m"), 1.0) == [ev.StopWorker(1)]
    core.handle(ev.WorkerReady(1, 2, 100, 60), 2.0)  # it had been ready before it heard of it
    core.handle(ev.WorkerLost(1, "asked for"), 3.0)

    assert core.model_status("m").state == "unloaded"
    assert core.model_status("m").restarts == 0
    assert core.next_deadline() is None


def test_a_load_that_is_asked_for_later_takes_it_back() -> None:
    world = World(15, m=10)
    world.submit("a", "m")
    world.do(ev.UnloadRequested("m"))
    world.do(ev.PreloadRequested("m"))

    world.finish("a")

    assert world.core.model_status("m").state == "ready"


def test_what_is_not_loaded_or_pinned_is_not_told_to_go() -> None:
    world = World(25, m=_spec(10, pinned=True), n=10)
    world.serve("a", "m")
    for name in ("m", "n"):
        world.do(ev.UnloadRequested(name))
    world.serve("b", "n")

    assert [world.core.model_status(name).state for name in "mn"] == ["ready", "ready"]
    assert world.core.model_status("m").pinned


def test_what_goes_gives_room_to_who_waits_for_it() -> None:
    world = World(15, config=replace(CONFIG, least_stay_s=1000.0), m=10, n=10)
    world.serve("a", "m")
    world.submit("b", "n")
    assert world.loads == ["m"]

    world.do(ev.UnloadRequested("m"))

    assert world.loads == ["m", "n"]


def test_no_more_are_loaded_than_may_be() -> None:
    world = World(1000, config=replace(CONFIG, max_loaded=2), a=1, b=1, c=1)
    world.serve("1", "a")
    world.pass_time(1)
    world.serve("2", "b")

    world.serve("3", "c")
    world.do(ev.PreloadRequested("a"))

    assert world.loads == ["a", "b", "c"]
    assert [world.core.model_status(name).state for name in "abc"] == ["unloaded", "ready", "ready"]


@pytest.mark.parametrize("busy", [False, True])
def test_memory_of_one_device_is_not_made_on_another(busy: bool) -> None:
    """The idle model on the host was used longest ago, and holds nothing of what is short."""
    world = World(15, host=_spec(10), gpu=_spec(10, GPU), wanted=_spec(10, GPU))
    world.serve("a", "host")
    world.pass_time(10)
    world.submit("b", "gpu")
    if not busy:
        world.finish("b")
    world.pass_time(10)

    world.submit("c", "wanted")
    world.pass_time(20)
    if busy:
        assert world.loads == ["host", "gpu"]
        world.finish("b")

    assert world.loads == ["host", "gpu", "wanted"]
    assert world.core.model_status("host").state == "ready"


def test_a_model_that_is_too_large_for_a_gpu_says_so() -> None:
    world = World(15 * 2**30, m=_spec(20 * 2**30, GPU))

    world.submit("a", "m")

    (error,) = world.errors
    assert "needs 20.00 GiB of memory of GPU 0 and 15.00 GiB are there" in error


# ---- other programs


def test_an_idle_model_goes_when_others_take_its_memory() -> None:
    world = World(25, a=10, b=10)
    world.serve("1", "a")
    world.pass_time(5)
    world.serve("2", "b")

    world.do(ev.MemorySeen({HOST: 12}))

    assert [world.core.model_status(name).state for name in "ab"] == ["unloaded", "ready"], "no more than it takes"
    world.do(ev.MemorySeen({HOST: 3}))
    assert world.core.model_status("b").state == "unloaded"


def test_who_runs_goes_on_and_who_comes_waits_until_there_is_memory_again() -> None:
    world = World(25, a=10, b=10)
    world.submit("1", "a")
    world.do(ev.MemorySeen({HOST: 5}))
    world.submit("2", "b")
    world.pass_time(20)

    assert world.core.model_status("a").state == "ready"
    assert world.granted == ["1"]
    world.finish("1")
    assert world.core.model_status("a").state == "unloaded"
    assert world.loads == ["a"]
    world.do(ev.MemorySeen({HOST: 25}))

    assert world.granted == ["1", "2"]


def test_what_is_there_is_never_more_than_at_the_start() -> None:
    world = World(15, a=10, b=10)
    world.submit("1", "a")

    world.do(ev.MemorySeen({HOST: 1000}))
    world.submit("2", "b")

    assert world.loads == ["a"]


def test_who_waited_for_memory_for_too_long_is_told_why() -> None:
    gib = 2**30
    world = World(20 * gib, config=replace(CONFIG, max_wait_s=30.0), m=10 * gib)
    world.do(ev.MemorySeen({HOST: 4 * gib}))
    world.submit("a", "m")

    world.pass_time(29)
    assert not world.errors
    world.pass_time(2)

    (error,) = world.errors
    assert "it needs 10.00 GiB of memory, of which 4.00 GiB are free now" in error
    assert world.core.idle


def test_what_never_fits_is_told_at_once_and_what_does_not_fit_now_is_not() -> None:
    world = World(15, huge=20, m=10)
    world.do(ev.MemorySeen({HOST: 5}))

    world.submit("a", "huge")
    assert "can not be loaded" in world.errors[0]
    world.submit("b", "m")

    assert len(world.errors) == 1


# ---- nobody is forgotten


def test_an_idle_model_is_not_frozen_while_the_busy_one_is_what_has_to_go() -> None:
    world = World(30, a=10, b=10, c=25)
    world.serve("0", "a")
    world.submit("busy", "b")
    world.submit("waits", "c")
    world.pass_time(6)

    world.serve("a goes on", "a")
    assert "a goes on" in world.granted
    world.finish("busy")

    assert world.loads == ["a", "b", "c"]


def test_nobody_retires_for_a_model_that_could_not_be_loaded_all_the_same() -> None:
    """What is pinned stays, so the large one waits for ever, and holds no place before a small one."""
    world = World(30, pinned=_spec(15, pinned=True), a=10, large=25, small=5)
    world.serve("0", "pinned")
    world.submit("busy", "a")
    world.submit("in vain", "large")
    world.pass_time(60)

    world.submit("goes on", "a")
    world.submit("small", "small")

    assert world.granted == ["0", "busy", "goes on", "small"]


def test_who_was_told_to_make_room_goes_on_when_that_would_not_help_any_more() -> None:
    world = World(30, a=10, b=25)
    world.submit("busy", "a")
    world.submit("waits", "b")
    world.pass_time(6)
    world.do(ev.MemorySeen({HOST: 12}))

    world.submit("goes on", "a")

    assert world.granted == ["busy", "goes on"]


def test_who_waited_behind_somebody_that_left_is_looked_at() -> None:
    world = World(30, a=20, x=25, z=5)
    world.submit("busy", "a")
    world.submit("first", "x")
    world.submit("second", "z")
    assert world.loads == ["a"], "its place is before z's"

    world.do(ev.RequestCancelled("first"))

    assert world.granted == ["busy", "second"]


def test_where_few_may_be_loaded_each_gets_its_turn() -> None:
    world = World(1000, config=replace(CONFIG, max_loaded=1), m=1, n=1)
    for number in range(40):
        world.submit(f"m{number}", "m")
        world.pass_time(1)
        if number == 10:
            world.submit("n", "n")
        served, world.granted = world.granted, []
        for name in served:
            world.finish(name)
            if name == "n":
                return
    raise AssertionError(f"n had no turn in 30 s: {world.loads}")


def test_a_second_worker_is_no_second_model() -> None:
    world = World(1000, config=replace(CONFIG, max_loaded=1), m=_spec(1, replicas=2))

    for number in range(4):
        world.submit(f"r{number}", "m")

    assert world.loads == ["m", "m"]


def test_a_model_that_was_just_loaded_gives_way_to_other_programs_too() -> None:
    world = World(15, config=replace(CONFIG, least_stay_s=60.0), m=10)
    world.serve("a", "m")

    world.do(ev.MemorySeen({HOST: 5}))

    assert world.core.model_status("m").state == "unloaded"


def test_a_small_one_does_not_go_where_the_large_one_alone_is_enough() -> None:
    world = World(20, small=2, large=18, wanted=15)
    world.serve("1", "small")
    world.pass_time(10)
    world.serve("2", "large")
    world.pass_time(10)

    world.submit("3", "wanted")

    assert world.core.model_status("small").state == "ready"
    assert world.loads == ["small", "large", "wanted"]


def test_a_worker_goes_where_there_is_room() -> None:
    """The first of its two places is on a GPU that is too small."""
    spec = ModelSpec(({GPU: 12}, {GPU + 1: 12}), 2, 100, 60, replicas=2)
    core = Scheduler(replace(CONFIG, memory_budgets={GPU: 8, GPU + 1: 24}), {"m": spec})

    actions = core.handle(ev.PreloadRequested("m"), 0.0)

    assert actions == [ev.StartWorker(1, "m", 1)]
