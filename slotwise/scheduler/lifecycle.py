"""The lives of a request and of a worker, as two tables. A step that is not in the table raises and changes nothing.

request:  SUBMITTED -> PREPARING -> QUEUED -> RUNNING -> DONE
          RUNNING -> QUEUED                    (paused: others are to have its slot; it goes on later)
          RUNNING -> CANCELLING -> DONE        (cancelled; the slot is held until the worker says so)
          PREPARING, QUEUED, RUNNING -> SUBMITTED   (its worker died: it begins again)
          any -> DONE                          (refused, cancelled while waiting, failed)

worker:   STARTING -> READY -> DRAINING -> DEAD;  any -> DEAD
"""

from __future__ import annotations

from enum import Enum


class RequestState(Enum):
    SUBMITTED = "submitted"  # waits for its worker, or for its turn to be tokenised
    PREPARING = "preparing"  # the worker is rendering and tokenising it
    QUEUED = "queued"  # its price is known; waits for a slot and cells
    RUNNING = "running"  # holds a slot and cells
    CANCELLING = "cancelling"  # told to stop; still holds slot and cells
    DONE = "done"


class WorkerState(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class IllegalTransition(Exception):
    """Raised when an event asks for a step that the table does not have."""


_R = RequestState
REQUEST_TRANSITIONS: dict[RequestState, frozenset[RequestState]] = {
    _R.SUBMITTED: frozenset({_R.PREPARING, _R.DONE}),
    _R.PREPARING: frozenset({_R.QUEUED, _R.SUBMITTED, _R.DONE}),
    _R.QUEUED: frozenset({_R.RUNNING, _R.SUBMITTED, _R.DONE}),
    _R.RUNNING: frozenset({_R.QUEUED, _R.CANCELLING, _R.SUBMITTED, _R.DONE}),
    _R.CANCELLING: frozenset({_R.DONE}),
    _R.DONE: frozenset(),
}

_W = WorkerState
WORKER_TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    _W.STARTING: frozenset({_W.READY, _W.DRAINING, _W.DEAD}),
    _W.READY: frozenset({_W.DRAINING, _W.DEAD}),
    _W.DRAINING: frozenset({_W.DEAD}),
    _W.DEAD: frozenset(),
}

#: States that count against the bound of the waiting queue.
WAITING = frozenset({_R.SUBMITTED, _R.PREPARING, _R.QUEUED})
#: Of them, those that have been to the tokenizer, or are there.
PREPARED = frozenset({_R.PREPARING, _R.QUEUED})
#: States that hold a slot and cells.
HOLDING = frozenset({_R.RUNNING, _R.CANCELLING})


def next_request_state(current: RequestState, to: RequestState) -> RequestState:
    """`to`, if the table allows it."""
    if to not in REQUEST_TRANSITIONS[current]:
        raise IllegalTransition(f"a request can not go from {current.value} to {to.value}")
    return to


def next_worker_state(current: WorkerState, to: WorkerState) -> WorkerState:
    """`to`, if the table allows it."""
    if to not in WORKER_TRANSITIONS[current]:
        raise IllegalTransition(f"a worker can not go from {current.value} to {to.value}")
    return to
