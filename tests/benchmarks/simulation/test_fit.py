"""From steps that were measured to an engine: what was put in comes out."""

import pytest

from slotwise.benchmarks.calibration.fit import NotEnough, engine_of
from slotwise.benchmarks.calibration.observations import Observation, Opened, Point, points_of
from slotwise.benchmarks.simulation.engine import Engine, PromptPart
from slotwise.workers.protocol import LoadModel

LOAD = LoadModel("m", "m.gguf", slots=16, context_cap=4096, n_batch=512)
TRUE = {
    split: Engine(
        decode=((1, 0.01), (4, 0.02), (16, 0.06)),
        prompt=((1, 0.01), (65, 0.08), (512, 0.5)),
        own_s=(3e-7, 2e-7),
        foreign_s=(1e-7, 5e-8),
        copy_s=1e-7,
        split=split,
    )
    for split in (True, False)
}


def opened(*, split: bool) -> Opened:
    return Opened(0.5, "split" if split else "unified", 16, 65536, 4096, 512, "partial")


def observe(engine: Engine, point: Point) -> Observation:
    parts = [PromptPart(point.tokens, point.depth)] if point.tokens else []
    seconds = engine.bare_seconds([point.rows] if point.rows else [], parts)
    seconds += (
        point.rows * point.depth * engine.own_s[0] + point.tokens * point.depth * engine.own_s[point.tokens >= 65]
    )
    beyond = point.foreign + 128 if point.foreign else 0
    seconds += (point.rows + point.tokens) * beyond * engine.foreign_s[point.tokens >= 65]
    seconds += engine.copy_s * 4096 if point.copied else 0.0
    return Observation(point, (seconds, seconds * 1.5, seconds))


@pytest.mark.parametrize("split", [True, False])
def test_what_was_put_in_comes_out(split: bool) -> None:
    engine = TRUE[split]
    found = engine_of(opened(split=split), [observe(engine, p) for p in points_of(LOAD, context=4096, split=split)])
    for rows in (1, 2, 4, 10, 16):
        assert found.decode_seconds(rows) == pytest.approx(engine.decode_seconds(rows), rel=0.01)
    for tokens in (1, 40, 65, 300, 512):
        assert found.prompt_seconds(tokens) == pytest.approx(engine.prompt_seconds(tokens), rel=0.1)
    assert found.own_s == pytest.approx(engine.own_s, rel=0.05)
    if split:
        assert found.copy_s == pytest.approx(1e-7, rel=0.05)
    else:
        assert found.foreign_s == pytest.approx(engine.foreign_s, rel=0.1)


def test_a_larger_step_takes_no_less_than_a_smaller_one() -> None:
    """A clock that was wrong once."""
    points = {1: 0.01, 2: 0.05, 4: 0.02, 8: 0.04}
    found = [Observation(Point(rows=rows), (seconds,)) for rows, seconds in points.items()]
    found += [Observation(Point(tokens=tokens), (0.01 * tokens,)) for tokens in (1, 64)]
    table = dict(engine_of(opened(split=True), found).decode)
    assert table == {1: 0.01, 2: 0.02, 4: 0.02, 8: 0.04}


def test_too_little_is_said() -> None:
    with pytest.raises(NotEnough):
        engine_of(opened(split=True), [Observation(Point(rows=1), (0.01,))])


def test_what_matters_most_is_measured_first_and_nothing_twice() -> None:
    points = points_of(LOAD, context=4096, split=True)
    assert len(points) == len(set(points))
    first = points[:10]
    assert Point(rows=1) in first
    assert Point(rows=16) in first
    assert {point.tokens for point in first} >= {129, 16}
    assert all(point.rows <= 16 and point.tokens <= 512 and point.depth <= 4096 for point in points)
