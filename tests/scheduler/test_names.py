"""What a worker calls a request."""

from slotwise.scheduler.names import SequenceNames


def test_each_time_that_a_worker_has_a_request_has_a_name_of_its_own() -> None:
    names = SequenceNames()
    first = names.new(1, "r")
    assert names.request(1, first) == "r"
    assert names.left(1, "r") == first
    assert names.request(1, first) is None, "what it still says of it is not heard"
    second = names.new(1, "r")

    assert (names.of(1, "r"), names.request(1, second), names.request(1, first)) == (second, "r", None)
    assert names.request_of(second) == names.request_of(first) == "r"
    assert names.new(2, "r") == first, "workers know nothing of each other"


def test_ids_may_look_like_names() -> None:
    names = SequenceNames()

    assert names.request(1, names.new(1, "r~x")) == "r~x"
    assert names.request_of("r~") == "r~"


def test_nothing_is_kept_of_what_is_over_or_gone() -> None:
    names = SequenceNames()
    for worker_id in (1, 2):
        names.new(worker_id, "r")
    names.over("r")
    assert names.of(1, "r") is names.of(2, "r") is None
    names.new(1, "s")
    names.gone(1)
    assert names.of(1, "s") is None
