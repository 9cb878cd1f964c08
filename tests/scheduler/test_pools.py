"""Pools of cells become smaller for models that are to be loaded, and larger for requests that wait for cells."""

from dataclasses import replace
from typing import Any

import pytest

from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.specs import ModelSpec, PoolSize, SchedulerConfig
from tests.scheduler.driver import Driver, pass_time

CONFIG = SchedulerConfig(cells_ahead=4, grow_patience_s=1.0, least_pool_s=5.0, memory_patience_s=5.0)


def _spec(*sizes: tuple[int, int], **more: Any) -> ModelSpec:
    """`sizes`: cells and bytes, the largest first."""
    pools = [PoolSize(cells, ({HOST: size},)) for cells, size in sizes]
    spec = ModelSpec(pools[0].needs, slots=4, kv_cells=pools[0].cells, context_cap=50, smaller=tuple(pools[1:]))
    return replace(spec, **more)


#: Weights take 10, and a cell a tenth.
ELASTIC = _spec((200, 30), (100, 20), (50, 15))


class World(Driver):
    """Workers that load at once. What they are told of their pools is done when `settle` is called."""

    def __init__(self, budget: int, config: SchedulerConfig = CONFIG, **models: ModelSpec) -> None:
        super().__init__(replace(config, memory_budgets={HOST: budget}), models)
        self.loads_at_once = True
        self.model_of: dict[int, str] = {}
        self.cells: dict[int, int] = {}
        self.told: dict[int, int] = {}
        self.starts: list[tuple[str, int]] = []
        self.stops: list[str] = []

    def do(self, event: ev.Event) -> list[ev.Action]:
        actions = super().do(event)
        for action in actions:
            match action:
                case ev.StartWorker(worker_id, model, _, cells):
                    spec = self.core._models[model].spec
                    self.model_of[worker_id], self.cells[worker_id] = model, cells or spec.kv_cells
                    self.starts.append((model, self.cells[worker_id]))
                    if self.loads_at_once:
                        self.do(ev.WorkerReady(worker_id, spec.slots, self.cells[worker_id], spec.context_cap))
                case ev.StopWorker(worker_id):
                    self.stops.append(self.model_of[worker_id])
                    self.do(ev.WorkerLost(worker_id, "asked for"))
                case ev.ResizePool(worker_id, cells):
                    assert worker_id not in self.told
                    self.told[worker_id] = cells
                case ev.PreparePrompt(request_id):
                    self.do(ev.RequestPriced(request_id, self.tokens))
        return actions

    tokens = 10

    def settle(self, *, done: bool = True) -> dict[str, int]:
        """Workers make the pools that they were told to make; returns them by model."""
        made = {}
        while self.told:
            worker_id, cells = self.told.popitem()
            made[self.model_of[worker_id]] = cells
            if done:
                self.cells[worker_id] = cells
            self.do(ev.PoolResized(worker_id, self.cells[worker_id], 50, done))
        return made

    def ask(self, name: str, model: str, *, tokens: int = 10, max_output: int = 30) -> None:
        self.tokens = tokens
        self.submit(name, model, max_output)

    def finish(self, name: str) -> None:
        self.do(ev.SequenceFinished(name, self.tokens, 0, 5, complete=True))

    def pass_time(self, seconds: float) -> None:
        pass_time(self, seconds, most_ticks=50)

    @property
    def reserved(self) -> int:
        return self.core.memory_status().reserved[HOST]


def test_a_model_gets_the_largest_pool_that_there_is_memory_for() -> None:
    for budget, cells in ((30, 200), (29, 100), (19, 50)):
        world = World(budget, m=ELASTIC)
        world.ask("r", "m")
        assert world.starts == [("m", cells)]


def test_what_fits_in_no_size_is_refused_with_the_least_that_it_takes() -> None:
    world = World(14 * 2**30, m=_spec((200, 30 * 2**30), (50, 15 * 2**30)))

    world.ask("r", "m")

    assert not world.starts
    assert world.usage["r"].outcome == "refused"
    assert "needs 15.00 GiB" in world.core._residency.shortage(world.core._models["m"])


def test_an_idle_pool_makes_room_for_another_model_before_anybody_is_unloaded() -> None:
    world = World(40, a=ELASTIC, b=ELASTIC)
    world.ask("r1", "a")
    world.finish("r1")
    assert world.starts == [("a", 200)]

    world.ask("r2", "b")

    assert world.settle() == {"a": 100}, "no smaller than is enough"
    assert world.starts == [("a", 200), ("b", 100)]
    assert not world.stops


def test_as_many_pools_as_it_takes_become_smaller_and_no_more() -> None:
    world = World(75, a=ELASTIC, b=ELASTIC, c=_spec((50, 25)))
    world.ask("r1", "a")
    world.finish("r1")
    world.now = 1.0
    world.ask("r2", "b")
    world.finish("r2")

    world.ask("r3", "c")

    assert world.settle() == {"a": 100}, "a was used longest ago"
    assert ("c", 50) in world.starts


def test_where_smaller_pools_are_not_enough_an_idle_model_goes_and_no_pool_changes() -> None:
    world = World(40, a=ELASTIC, b=_spec((50, 35)))
    world.ask("r1", "a")
    world.finish("r1")
    world.now = 60.0

    world.ask("r2", "b")

    assert not world.told
    assert world.stops == ["a"]
    assert world.starts[-1] == ("b", 50)


def test_a_preload_takes_what_pools_can_do_without() -> None:
    world = World(40, a=ELASTIC, b=ELASTIC)
    world.do(ev.PreloadRequested("a"))
    world.do(ev.PreloadRequested("b"))

    assert world.settle() == {"a": 100}
    assert world.starts == [("a", 200), ("b", 100)]


def test_models_that_are_preloaded_together_leave_room_for_each_other() -> None:
    world = World(50, a=ELASTIC, b=ELASTIC, c=ELASTIC)
    world.do(ev.PreloadRequested("a", ("b", "c")))

    assert world.starts == [("a", 100), ("b", 50), ("c", 50)]
    assert not world.told


def test_a_pool_is_not_made_small_for_models_that_will_not_be_loaded() -> None:
    world = World(40, a=ELASTIC, b=ELASTIC, c=ELASTIC)
    world.do(ev.PreloadRequested("a", ("b", "c")))
    assert world.starts == [("a", 100), ("b", 100)], "there is no room for a third"

    world = World(31, replace(CONFIG, max_loaded=1), a=ELASTIC, b=ELASTIC)
    world.do(ev.PreloadRequested("a", ("b",)))
    assert world.starts == [("a", 200)]

    world = World(100, a=ELASTIC, big=_spec((50, 90)))
    world.do(ev.PreloadRequested("a", ("big",)))
    assert world.starts == [("a", 200)]


def test_where_it_can_be_loaded_in_no_place_that_is_large_enough_it_has_failed() -> None:
    spec = ModelSpec(({HOST: 10}, {HOST: 100}), 4, 200, 50, replicas=2)
    world = World(20, m=spec)
    world.loads_at_once = False
    world.ask("r", "m")

    world.do(ev.WorkerStartFailed(1, "broken"))
    world.do(ev.WorkerLost(1, "asked for"))

    assert world.usage["r"].outcome == "refused"
    assert world.core.model_status("m").state == "failed"


def test_a_pool_on_another_device_stays_as_it_is_when_one_grows() -> None:
    def on_gpu(*sizes: tuple[int, int]) -> ModelSpec:
        pools = [PoolSize(cells, ({HOST: 1, 0: size},)) for cells, size in sizes]
        return ModelSpec(pools[0].needs, 4, pools[0].cells, 50, smaller=tuple(pools[1:]))

    gpu = on_gpu((200, 30), (100, 20), (50, 15))
    world = World(100, replace(CONFIG, memory_budgets={}), h=ELASTIC, y=gpu, x=gpu)
    world.core._residency.memory._budgets[0] = world.core._residency.memory._most[0] = 45
    for name in ("h", "y"):
        world.ask(f"r-{name}", name)
        world.finish(f"r-{name}")
    for number in range(4):
        world.ask(f"x{number}", "x", tokens=30)
    assert world.starts[-1] == ("x", 50)

    world.pass_time(7.0)

    assert world.told.keys() == {2}, "y gives, and h has nothing to give there"


def test_where_it_is_not_enough_as_much_as_there_is_is_given_back() -> None:
    world = World(60, a=ELASTIC, b=_spec((50, 20)))
    world.ask("b", "b")
    world.finish("b")
    world.ask("a", "a", max_output=5)

    world.do(ev.MemorySeen({HOST: 5}))

    assert world.stops == ["b"]
    assert world.settle() == {"a": 50}


def test_a_model_waits_for_one_that_is_being_loaded_and_takes_cells_of_it_then() -> None:
    world = World(40, a=ELASTIC, b=ELASTIC)
    world.loads_at_once = False
    world.do(ev.PreloadRequested("a"))
    world.do(ev.PreloadRequested("b"))
    assert world.starts == [("a", 200)]

    world.do(ev.WorkerReady(1, 4, 200, 50))

    assert world.settle() == {"a": 100}
    assert world.starts == [("a", 200), ("b", 100)]


def test_pools_and_idle_models_make_room_together_and_nothing_else_changes() -> None:
    pinned = replace(ELASTIC, pinned=True)
    world = World(42, a=pinned, c=_spec((50, 10)), d=_spec((50, 2)), b=_spec((50, 23)))
    for name in ("d", "a", "c"):
        world.ask(f"r-{name}", name)
        world.finish(f"r-{name}")
    world.now = 60.0

    world.ask("r", "b")

    assert world.settle() == {"a": 50}, "15 of a, 10 of c"
    assert world.stops == ["c"], "d is idle too, and it does not take that"
    assert world.starts[-1] == ("b", 50)


def test_a_pinned_pool_in_use_becomes_smaller_once_somebody_has_waited_for_long() -> None:
    world = World(40, a=replace(ELASTIC, pinned=True), b=ELASTIC)
    for number in range(5):
        world.ask(f"a{number}", "a", tokens=10, max_output=5)
    world.ask("r", "b")
    world.pass_time(4.0)
    assert not world.told, "requests wait for it"

    world.pass_time(2.0)

    assert world.settle() == {"a": 100}
    assert world.starts[-1] == ("b", 100)


def test_after_a_while_a_pool_that_could_not_be_made_is_tried_again() -> None:
    world = World(40, a=replace(ELASTIC, pinned=True), b=_spec((50, 12)))
    world.ask("r1", "a")
    world.finish("r1")
    world.ask("r2", "b")
    world.settle(done=False)
    world.pass_time(29.0)
    assert not world.told

    world.pass_time(2.0)
    assert world.settle(done=False) == {"a": 100}
    world.pass_time(59.0)
    assert not world.told, "twice as long the second time"
    world.pass_time(2.0)
    assert world.settle() == {"a": 100}
    assert world.starts[-1] == ("b", 50)


def test_a_pool_with_fewer_cells_needs_no_more_anywhere() -> None:
    for smaller in (PoolSize(100, ({HOST: 31},)), PoolSize(100, ({HOST: 20, 0: 1},)), PoolSize(200, ({HOST: 20},))):
        with pytest.raises(ValueError, match="is not smaller"):
            ModelSpec(({HOST: 30},), 4, 200, 50, smaller=(smaller,))


def test_a_pool_in_use_becomes_smaller_beside_what_runs_if_that_has_room_on_the_way() -> None:
    for cell_bytes, resized in ((0, {"a": 100}), (1, {})):
        world = World(44, a=replace(ELASTIC, cell_bytes=cell_bytes), b=ELASTIC)
        world.ask("r1", "a")  # is promised 40 cells
        world.ask("r2", "b")

        assert world.settle() == resized
        assert ("b" in dict(world.starts)) == bool(resized)


def test_cells_that_will_not_be_there_are_promised_to_nobody() -> None:
    world = World(40, a=ELASTIC, b=ELASTIC)
    world.ask("r1", "a")
    world.finish("r1")
    world.ask("r2", "b")
    assert world.told == {1: 100}

    for number in range(4):
        world.ask(f"a{number}", "a", tokens=30)

    status = world.core.model_status("a")
    assert status.busy_slots < 4
    assert status.reserved_cells <= 100
    world.settle()
    world.core.check_invariants()


def test_bytes_of_the_larger_pool_are_held_until_the_smaller_is_made() -> None:
    world = World(60, a=ELASTIC, b=_spec((50, 35)))
    world.ask("r1", "a")
    world.finish("r1")
    world.ask("r2", "b")
    assert world.reserved == 30

    world.settle()

    assert world.reserved == 20 + 35


def test_a_pool_grows_when_requests_wait_for_cells_and_there_is_memory() -> None:
    world = World(30, a=ELASTIC, b=_spec((50, 12)))
    world.ask("b1", "b")
    for number in range(4):
        world.ask(f"a{number}", "a", tokens=30)
    assert world.starts[-1] == ("a", 50)
    world.pass_time(10.0)
    assert not world.told, "there is no memory for it"

    world.finish("b1")
    world.do(ev.WorkerLost(1, "killed", True))
    world.pass_time(0.5)

    assert world.settle() == {"a": 100}
    assert world.core.model_status("a").kv_cells == 100
    world.pass_time(4.0)
    assert not world.told, "not twice in five seconds"


@pytest.mark.parametrize("waited", [0.5, 1.5])
def test_a_pool_does_not_grow_for_a_moments_shortage(waited: float) -> None:
    world = World(30, a=ELASTIC, b=_spec((50, 12)))
    world.ask("b1", "b")
    world.ask("a0", "a", tokens=30)
    world.finish("b1")
    world.do(ev.WorkerLost(1, "killed", True))
    world.pass_time(20.0)
    for number in range(1, 4):
        world.ask(f"a{number}", "a", tokens=30)

    world.pass_time(waited)

    assert bool(world.told) == (waited > 1.0)


def test_a_pool_grows_from_one_that_nobody_has_used_for_a_while() -> None:
    world = World(45, a=ELASTIC, b=ELASTIC)
    world.ask("b1", "b")
    world.finish("b1")
    world.ask("a0", "a", tokens=30)
    assert world.starts == [("b", 200), ("a", 50)]
    for number in range(1, 4):
        world.ask(f"a{number}", "a", tokens=30)
    world.pass_time(4.0)
    assert not world.told, "b was used a moment ago"

    world.pass_time(3.0)
    assert world.settle() == {"b": 100, "a": 100}


def test_nothing_grows_while_a_model_waits_for_memory() -> None:
    world = World(32, a=ELASTIC, b=_spec((50, 12)), c=_spec((50, 12)))
    world.ask("b1", "b")
    for number in range(4):
        world.ask(f"a{number}", "a", tokens=30)
    world.ask("c1", "c")
    assert ("a", 100) in world.starts
    world.finish("b1")
    world.do(ev.WorkerLost(1, "killed", True))

    assert world.starts[-1] == ("c", 50)
    world.pass_time(10.0)
    assert not world.told


def test_a_pool_that_could_not_be_made_is_as_it_was_and_the_model_goes_instead() -> None:
    world = World(40, a=ELASTIC, b=_spec((50, 12)))
    world.ask("r1", "a")
    world.finish("r1")
    world.ask("r2", "b")

    world.settle(done=False)

    assert world.core.model_status("a").kv_cells == 200
    assert world.reserved == 30
    world.pass_time(10.0)
    assert world.stops == ["a"]
    assert world.starts[-1] == ("b", 50)


def test_where_others_take_memory_pools_give_it_back_before_models_do() -> None:
    world = World(60, a=ELASTIC, b=ELASTIC)
    for name in ("a", "b"):
        world.ask(f"r-{name}", name)
        world.finish(f"r-{name}")

    world.do(ev.MemorySeen({HOST: 52}))

    assert world.settle() == {"a": 100}
    assert not world.stops
    world.do(ev.MemorySeen({HOST: 12}))
    assert world.stops


def test_a_worker_that_dies_on_the_way_leaves_nothing_reserved() -> None:
    world = World(40, a=ELASTIC, b=ELASTIC)
    world.ask("r1", "a")
    world.finish("r1")
    world.ask("r2", "b")
    worker_id = next(iter(world.told))

    world.do(ev.WorkerLost(worker_id, "killed", True))
    world.told.clear()
    world.do(ev.PoolResized(worker_id, 100, 50))

    assert world.starts[-1] == ("b", 200)
    assert world.reserved == 30
