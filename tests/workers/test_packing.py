"""Which inputs are in a batch: each once, in order, within its bounds, and nobody is held up by another's thousands."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.packing import Job, Packer
from slotwise.workers.protocol import Asker

BUDGET, INPUTS = 64, 8
#: A few are longer than a batch.
LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=30)
ASKERS = st.sampled_from([Asker("a", "1"), Asker("a", "2"), Asker("b", weight=2.0), Asker("c", level=1)])


def _job(name: str, lengths: list[int], asker: Asker | None = None) -> Job:
    asker = asker or Asker()
    return Job(name, [[0] * length for length in lengths], asker)


def _step(packer: Packer, jobs: list[Job]) -> list[tuple[str, int]]:
    batch = packer.plan(jobs)
    for job, _ in batch:
        job.done += 1
    jobs[:] = [job for job in jobs if not job.over]
    return [(job.request_id, index) for job, index in batch]


@given(st.lists(st.tuples(LENGTHS, ASKERS, st.integers(0, 5)), min_size=1, max_size=6))
def test_each_input_is_computed_once_and_in_order(given_jobs: list[tuple[list[int], Asker, int]]) -> None:
    packer = Packer(BUDGET, INPUTS)
    coming = {f"r{number}": (lengths, asker, at) for number, (lengths, asker, at) in enumerate(given_jobs)}
    jobs: list[Job] = []
    seen: list[tuple[str, int]] = []
    for step in range(10_000):
        jobs += [_job(name, lengths, asker) for name, (lengths, asker, at) in coming.items() if at == step]
        if step > 5 and not jobs:
            break
        batch = _step(packer, jobs)
        sizes = [coming[name][0][index] for name, index in batch]
        assert sum(sizes) <= BUDGET or len(sizes) == 1
        assert len(sizes) <= INPUTS
        assert batch or not jobs, "work conserving"
        seen += batch
    for name, (lengths, _, _) in coming.items():
        assert [index for one, index in seen if one == name] == list(range(len(lengths)))


def test_thousands_of_one_do_not_hold_up_anothers_one() -> None:
    packer = Packer(BUDGET, INPUTS)
    jobs = [_job("many", [10] * 2000, Asker("a"))]
    for _ in range(50):
        _step(packer, jobs)
    jobs.append(_job("one", [60], Asker("b")))

    assert ("one", 0) in _step(packer, jobs)


def test_an_input_longer_than_a_batch_has_its_turn_beside_short_ones() -> None:
    packer = Packer(BUDGET, INPUTS)
    jobs = [_job("short", [4] * 500, Asker("a")), _job("long", [200] * 3, Asker("b"))]
    steps = [_step(packer, jobs) for _ in range(80)]

    assert sum(batch == [("long", index)] for batch in steps for index in range(3)) == 3


def test_keys_share_by_weight_and_users_of_a_key_evenly() -> None:
    packer = Packer(BUDGET, INPUTS)
    askers = {"a1": Asker("a", "1"), "a2": Asker("a", "2"), "b": Asker("b", weight=2.0)}
    jobs = [_job(name, [8] * 1000, asker) for name, asker in askers.items()]
    had = Counter(name for _ in range(100) for name, _ in _step(packer, jobs))

    assert abs(had["b"] - had["a1"] - had["a2"] - sum(had.values()) / 3) < 10
    assert abs(had["a1"] - had["a2"]) < 5


def test_requests_of_one_user_get_on_together() -> None:
    packer = Packer(BUDGET, INPUTS)
    jobs = [_job("first", [8] * 1000)]
    for _ in range(30):
        _step(packer, jobs)
    jobs.append(_job("second", [8] * 1000))
    had = Counter(name for _ in range(50) for name, _ in _step(packer, jobs))

    assert abs(had["first"] - had["second"]) < 3, "it does not catch up with what the other had before"
