"""The two tables: every step that is not in them raises."""

from itertools import product

import pytest

from slotwise.scheduler.lifecycle import (
    HOLDING,
    REQUEST_TRANSITIONS,
    WAITING,
    WORKER_TRANSITIONS,
    IllegalTransition,
    RequestState,
    WorkerState,
    next_request_state,
    next_worker_state,
)


@pytest.mark.parametrize(("current", "to"), list(product(RequestState, RequestState)))
def test_a_request_takes_the_steps_of_its_table_and_no_other(current: RequestState, to: RequestState) -> None:
    if to in REQUEST_TRANSITIONS[current]:
        assert next_request_state(current, to) is to
    else:
        with pytest.raises(IllegalTransition, match=f"from {current.value} to {to.value}"):
            next_request_state(current, to)


@pytest.mark.parametrize(("current", "to"), list(product(WorkerState, WorkerState)))
def test_a_worker_takes_the_steps_of_its_table_and_no_other(current: WorkerState, to: WorkerState) -> None:
    if to in WORKER_TRANSITIONS[current]:
        assert next_worker_state(current, to) is to
    else:
        with pytest.raises(IllegalTransition, match=f"from {current.value} to {to.value}"):
            next_worker_state(current, to)


def test_every_state_has_a_row_and_every_request_can_end() -> None:
    assert set(REQUEST_TRANSITIONS) == set(RequestState)
    assert set(WORKER_TRANSITIONS) == set(WorkerState)
    assert all(RequestState.DONE in REQUEST_TRANSITIONS[state] for state in RequestState if state.value != "done")
    assert all(WorkerState.DEAD in WORKER_TRANSITIONS[state] for state in WorkerState if state.value != "dead")


def test_what_is_over_stays_over() -> None:
    assert not REQUEST_TRANSITIONS[RequestState.DONE]
    assert not WORKER_TRANSITIONS[WorkerState.DEAD]


def test_a_request_that_was_told_to_stop_is_never_replayed() -> None:
    assert REQUEST_TRANSITIONS[RequestState.CANCELLING] == {RequestState.DONE}


def test_a_live_request_either_waits_or_holds_a_slot() -> None:
    assert not WAITING & HOLDING
    assert set(RequestState) == WAITING | HOLDING | {RequestState.DONE}
