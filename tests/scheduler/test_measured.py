"""What was measured of workers: the peak stays, what is not known is not 0."""

from slotwise.memory.footprint import HOST
from slotwise.scheduler.measured import Measured, MeasuredMemory, WorkerMemory, measured_on, peak_on, reserved_on
from slotwise.scheduler.status import Reservation


def _worker(worker_id: int, reserved: dict[int, int], measured: Measured) -> WorkerMemory:
    return WorkerMemory(Reservation(worker_id, "m", 0, reserved), measured)


def test_the_peak_is_what_the_system_kept_or_the_most_that_was_seen() -> None:
    memory = MeasuredMemory()
    memory.seen(1, Measured({HOST: 5, 0: 8}, {HOST: 9}))
    memory.seen(1, Measured({HOST: 6, 0: 3}, {HOST: 9}))

    assert memory.of(1) == Measured({HOST: 6, 0: 3}, {HOST: 9, 0: 8})


def test_a_figure_that_is_not_known_any_more_is_not_shown_but_its_peak_is() -> None:
    memory = MeasuredMemory()
    memory.seen(1, Measured({HOST: 5, 0: 8}))
    memory.seen(1, Measured({HOST: 5}))

    assert memory.of(1) == Measured({HOST: 5}, {HOST: 5, 0: 8})


def test_nothing_is_left_of_a_worker_that_is_gone() -> None:
    memory = MeasuredMemory()
    memory.seen(1, Measured({HOST: 5}))
    memory.seen(2, Measured({HOST: 3}))
    memory.gone(1)

    assert memory.workers == {2}
    assert (memory.of(1), memory.of(2)) == (Measured({}), Measured({HOST: 3}, {HOST: 3}))


def test_workers_of_which_it_is_known_are_added_up() -> None:
    workers = [
        _worker(1, {HOST: 10, 0: 20}, Measured({HOST: 5, 0: 8}, {HOST: 9, 0: 8})),
        _worker(2, {HOST: 10}, Measured({HOST: 6}, {HOST: 7})),
        _worker(3, {HOST: 10, 0: 20}, Measured({})),
    ]

    assert [reserved_on(workers, device) for device in (HOST, 0)] == [30, 40]
    assert [measured_on(workers, device) for device in (HOST, 0)] == [11, 8]
    assert [peak_on(workers, device) for device in (HOST, 0)] == [16, 8]


def test_where_it_is_known_of_none_there_is_no_sum_and_where_nobody_is_it_is_nothing() -> None:
    workers = [_worker(1, {HOST: 10, 0: 20}, Measured({HOST: 5}, {HOST: 5}))]

    assert measured_on(workers, 0) is peak_on(workers, 0) is None
    assert measured_on(workers, 1) == measured_on([], HOST) == 0
