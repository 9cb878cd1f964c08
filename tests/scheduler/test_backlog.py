"""How long who comes now will have to wait."""

import pytest

from slotwise.scheduler.backlog import Backlog, Run, Work
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.rates import ServiceRates
from slotwise.scheduler.shares import Flow, Shares

SLOTS = 4
#: A tenth of a second of output, whatever the number of rows.
REQUEST = Work(0, 100)
ME, OTHER = Flow("me"), Flow("other")


class Line:
    def __init__(self) -> None:
        rates = ServiceRates()
        rates.observe(4, 0, 4, 0.04)  # 10 ms a token
        self.shares = Shares()
        self.backlog = Backlog(rates)
        self.runs_now: list[Run] = []

    def said(self, tokens: int) -> None:
        """Each that runs gave so many."""
        for run in self.runs_now:
            self.backlog.said(run, run.output_left - tokens)

    def waits(self, flow: Flow, times: int = 1, priority: Priority = Priority.NORMAL) -> None:
        for _ in range(times):
            self.shares.join(flow, 1.0)
            self.backlog.enqueue(flow, priority, REQUEST)

    def runs(self, flow: Flow, times: int = 1) -> None:
        for _ in range(times):
            self.shares.join(flow, 1.0)
            self.backlog.took(self.backlog.seconds(REQUEST, SLOTS))
            self.runs_now.append(self.backlog.begin(REQUEST))

    def wait(self, flow: Flow, weight: float = 1.0, priority: Priority = Priority.NORMAL) -> float:
        return self.backlog.wait(flow, weight, priority, self.shares, SLOTS)


def test_nobody_waits_while_a_slot_is_free() -> None:
    line = Line()
    line.runs(OTHER, SLOTS - 1)

    assert line.wait(ME) == 0.0


def test_the_wait_is_for_what_runs_and_for_what_waits_before() -> None:
    """Four of one second each, half done, and three that wait."""
    line = Line()
    line.runs(OTHER, SLOTS)
    line.said(50)
    assert line.wait(ME) == pytest.approx(0.5), "one of four ends each second, the next in half of one"

    line.waits(ME, 3)
    assert line.wait(ME) == pytest.approx(3.5)


def test_what_others_ask_for_counts_as_far_as_it_is_served_before() -> None:
    line = Line()
    line.runs(OTHER, SLOTS)
    line.said(50)
    line.waits(OTHER, 10)

    assert line.wait(ME) == pytest.approx(1.5), "one of theirs, and not ten"
    assert line.wait(OTHER) == pytest.approx(10.5)
    line.shares.keys.join("me")
    line.shares.keys.charge("me", 3.0)
    assert line.wait(ME) == pytest.approx(4.5), "I had three seconds more than they"


def test_users_of_one_key_are_told_apart() -> None:
    line = Line()
    ann, bob = Flow("team", "ann"), Flow("team", "bob")
    line.runs(ann, SLOTS)
    line.said(50)
    line.waits(ann, 10)

    assert line.wait(bob) == pytest.approx(1.5)
    assert line.wait(ann) == pytest.approx(10.5)


def test_a_higher_class_is_served_before_and_a_lower_one_after() -> None:
    line = Line()
    line.runs(OTHER, SLOTS)
    line.said(50)
    line.waits(OTHER, 10, Priority.HIGH)
    line.waits(OTHER, 10, Priority.LOW)

    assert line.wait(ME) == pytest.approx(10.5)
    assert line.wait(ME, priority=Priority.HIGH) == pytest.approx(1.5)


def test_everything_that_was_added_goes_again() -> None:
    line = Line()
    line.waits(ME, 2)
    line.runs(ME)
    line.said(40)
    assert line.backlog.end(line.runs_now.pop()) == Work(0, 60)
    for _ in range(2):
        line.backlog.dequeue(ME, Priority.NORMAL, REQUEST)

    assert line.backlog.left == line.backlog._running == Work()
    assert line.wait(ME) == 0.0


def test_the_scale_is_corrected_by_what_waits_really_were() -> None:
    line = Line()
    line.runs(OTHER, SLOTS)
    line.waits(ME, 3)
    for _ in range(200):
        predicted = line.wait(ME)
        line.backlog.waited(predicted, 1.5 * predicted / line.backlog.bias)

    assert line.backlog.bias == pytest.approx(1.5, rel=0.01)


def test_a_wait_may_be_as_much_longer_as_waits_were() -> None:
    exact, loose = Line(), Line()
    for number in range(200):
        for line, off in ((exact, 0.0), (loose, 2.0)):
            line.runs(OTHER, SLOTS - line.backlog.requests_running)
            line.backlog.waited(4.0, 4.0 + (off if number % 2 else -off))

    assert exact.backlog.at_most(0.0) == 0.0
    assert 4.0 < exact.backlog.at_most(4.0) < 4.5
    assert loose.backlog.at_most(4.0) > 7.0
