"""Half of the candidates go after each round, and what was measured is not measured again."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.judging import Reading, nothing_came
from slotwise.benchmarks.tuning.trying import (
    Probe,
    Round,
    choose,
    halve,
    measured_reading,
    of_servers,
    rounds_for,
    score,
    seconds_of_rounds,
)
from slotwise.benchmarks.tuning.workloads import workload_named

CHAT = workload_named("chat")
pytestmark = pytest.mark.anyio


def reading(level: float, soft: float, attainment: float = 0.9) -> Reading:
    return Reading(
        level=level,
        goodput_s=soft,
        soft_s=soft,
        output_tok_s=100.0,
        ttft_p95=1.0,
        tpot_p95=0.1,
        judged=100,
        attained=round(100 * attainment),
        late=0.0,
        slow=0.0,
        failed=0.0,
        seconds=20.0,
    )


def candidates(count: int) -> list[Candidate]:
    return [Candidate(slots=slots + 1) for slots in range(count)]


class Server:
    """Gives as much as it has slots."""

    def __init__(self, attainment: float = 0.9) -> None:
        self.attainment = attainment
        self.asked: list[tuple[int, float, float]] = []

    async def measure(self, candidate: Candidate, level: float, seconds: float, seed: int) -> Reading:
        self.asked.append((candidate.slots, level, seconds))
        return reading(level, float(candidate.slots), self.attainment)


async def test_the_better_half_goes_on() -> None:
    server, known = Server(), list[Probe]()
    shortlist = [(one, 4.0) for one in candidates(4)]
    await halve(shortlist, [Round(4, 10), Round(2, 20)], server.measure, CHAT, known, lambda: None)
    assert [(slots, seconds) for slots, _, seconds in server.asked] == [
        (1, 10),
        (2, 10),
        (3, 10),
        (4, 10),
        (4, 20),
        (3, 20),
    ]
    assert choose(known, lambda one: one.slots, Candidate()) == Candidate(slots=4)


async def test_what_is_only_compared_with_takes_nobodys_place() -> None:
    server, known = Server(), list[Probe]()
    shortlist = [(one, 4.0) for one in candidates(4)]
    beside = {Candidate(slots=4)}
    await halve(shortlist, [Round(4, 10), Round(2, 20)], server.measure, CHAT, known, lambda: None, beside=beside)
    assert [slots for slots, _, seconds in server.asked] == [1, 2, 3, 4, 3, 2]


async def test_what_was_measured_before_is_not_measured_again() -> None:
    first, known = Server(), list[Probe]()
    shortlist = [(one, 4.0) for one in candidates(4)]
    rounds = [Round(4, 10), Round(2, 20)]

    class Interrupted(Exception):
        pass

    async def until_interrupted(candidate: Candidate, level: float, seconds: float, seed: int) -> Reading:
        if len(first.asked) == 3:
            raise Interrupted
        return await first.measure(candidate, level, seconds, seed)

    with pytest.raises(Interrupted):
        await halve(shortlist, rounds, until_interrupted, CHAT, known, lambda: None)
    second = Server()
    await halve(shortlist, rounds, second.measure, CHAT, known, lambda: None)
    assert [slots for slots, _, _ in second.asked] == [4, 4, 3]
    assert len(known) == 6


@pytest.mark.parametrize(("attainment", "levels"), [(1.0, [4.0, 6.0]), (0.9, [4.0, 4.0]), (0.5, [4.0, 3.0])])
async def test_more_people_come_where_all_are_served_in_time(attainment: float, levels: list[float]) -> None:
    server = Server(attainment)
    rounds = [Round(1, 10), Round(1, 10)]
    await halve([(Candidate(), 4.0)], rounds, server.measure, CHAT, [], lambda: None)
    assert [level for _, level, _ in server.asked] == levels


async def test_a_number_of_people_that_is_given_stays() -> None:
    server = Server(1.0)
    rounds = [Round(1, 10), Round(1, 10)]
    await halve([(Candidate(), 10.0)], rounds, server.measure, CHAT, [], lambda: None, fixed=True)
    assert [level for _, level, _ in server.asked] == [10.0, 10.0]


@given(st.floats(30, 3600), st.sampled_from([0.0, 5.0, 45.0]))
def test_rounds_take_about_as_long_as_there_is_time(seconds: float, warmup: float) -> None:
    rounds = rounds_for(seconds, warmup=warmup)
    assert len(rounds) >= 2
    assert rounds[-1].candidates == 2
    least = rounds_for(1.0, warmup=warmup)
    assert seconds_of_rounds(rounds, warmup) <= max(seconds, seconds_of_rounds(least, warmup)) * 1.01
    assert all(later.seconds >= earlier.seconds for earlier, later in zip(rounds, rounds[1:], strict=False))


def test_of_equal_ones_the_smaller_is_chosen() -> None:
    one, two = Candidate(slots=8), Candidate(slots=16)
    probes = [
        Probe(round=0, candidate=one, level=4.0, seed=1, reading=reading(4.0, 0.99)),
        Probe(round=0, candidate=two, level=4.0, seed=1, reading=reading(4.0, 1.0)),
    ]
    assert choose(probes, lambda candidate: candidate.slots, Candidate()) == one


def test_the_score_is_that_of_the_best_level() -> None:
    one = Candidate()
    probes = [
        Probe(round=0, candidate=one, level=4.0, seed=1, reading=reading(4.0, 1.0)),
        Probe(round=1, candidate=one, level=6.0, seed=2, reading=reading(6.0, 0.5)),
        Probe(round=2, candidate=one, level=4.0, seed=3, reading=reading(4.0, 2.0)),
    ]
    assert score(probes, one) == pytest.approx(1.5)
    assert score(probes, Candidate(slots=3)) == 0.0


def test_what_was_measured_of_a_level_is_told_together() -> None:
    one = Candidate()
    short = msgspec.structs.replace(reading(4.0, 1.0, attainment=1.0), seconds=20.0, ttft_p95=0.5, failed=0.0)
    long = msgspec.structs.replace(reading(4.0, 4.0, attainment=0.5), seconds=40.0, ttft_p95=2.0, failed=0.3)
    worse = reading(6.0, 0.1)
    probes = [Probe(round=0, candidate=one, level=found.level, seed=1, reading=found) for found in (short, long, worse)]
    found = measured_reading(probes, one)
    assert found is not None
    assert (found.level, found.judged, found.attained, found.seconds) == (4.0, 200, 150, 60.0)
    assert found.goodput_s == pytest.approx(3.0)
    assert found.failed == pytest.approx(0.15)
    assert found.ttft_p95 == 2.0, "of the longer one"
    assert measured_reading(probes, Candidate(slots=3)) is None


def test_whose_server_did_not_come_up_the_last_time_was_not_measured() -> None:
    one, other = candidates(2)
    failed = nothing_came(4.0, 20.0)
    assert not failed.started
    probes = [
        Probe(round=number, candidate=candidate, level=4.0, seed=1, reading=found)
        for number, candidate, found in ((0, one, reading(4.0, 1.0)), (0, other, failed), (1, one, failed))
    ]
    assert of_servers(probes) == []
    again = Probe(round=0, candidate=other, level=4.0, seed=1, reading=reading(4.0, 1.0))
    assert of_servers([*probes, again]) == [again]
    assert measured_reading(probes, one) is None
