"""The cost model against machines whose cost is known."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.cost import LEAST_PREFILL, PromptChunk, StepCost


def _chunks(tokens: int, depth: float) -> list[PromptChunk]:
    return [(tokens, depth)] if tokens else []


def _budget(cost: StepCost, target: float, decode_rows: int, start: float) -> int:
    return cost.prompt_budget(target, decode_rows).tokens(int(start))


def _machine(decode: float, rate: float, slope: float, decode_rows: int, prefill: int, depth: float) -> float:
    return (0.005 + decode * decode_rows if decode_rows else 0.0) + prefill * (rate + slope * depth)


def _learned(decode: float, rate: float, slope: float, noise: float = 0.0) -> StepCost:
    cost, rng = StepCost(), random.Random(1)
    for step in range(400):
        rows = 1 + step // 4 % 8
        prefill = (0, 32, 64, 128)[step % 4]
        depth = rng.choice((50.0, 500.0, 2000.0))
        seconds = _machine(decode, rate, slope, rows, prefill, depth) * (1 + noise * rng.uniform(-1, 1))
        cost.observe(rows, _chunks(prefill, depth), seconds)
    return cost


@pytest.mark.parametrize(("decode", "rate", "slope"), [(6e-3, 2e-3, 0), (6e-3, 2e-3, 4e-7), (1e-3, 5e-5, 2e-9)])
def test_it_predicts_what_it_has_learned(decode: float, rate: float, slope: float) -> None:
    cost = _learned(decode, rate, slope, noise=0.1)

    for rows, prefill, depth in [(4, 0, 0.0), (4, 64, 100.0), (8, 128, 1500.0), (1, 32, 2000.0)]:
        expected = _machine(decode, rate, slope, rows, prefill, depth)
        assert cost.seconds(rows, prefill, depth) == pytest.approx(expected, rel=0.3)


def test_deep_tokens_in_whole_tiles_cost_less_than_in_smaller_ones() -> None:
    """As of llama.cpp's flash attention on a CPU: 48 tokens can take longer than 64."""
    cost, rng = StepCost(), random.Random(2)
    for step in range(300):
        size = (0, 32, 48, 65, 129)[step % 5]
        depth = rng.choice((0.0, 500.0, 1000.0, 2000.0))
        cost.observe(4, _chunks(size, depth), 0.03 + size * (2e-3 + (2e-6 if size < 65 else 1e-6) * depth))

    assert cost.seconds(4, 65, 2000.0) == pytest.approx(0.03 + 65 * 4e-3, rel=0.1)
    assert cost.seconds(4, 32, 2000.0) == pytest.approx(0.03 + 32 * 6e-3, rel=0.1)
    assert _budget(cost, 0.3, 4, 2000.0) == 65


def test_a_whole_tile_is_taken_for_a_half_more_time_where_its_tokens_cost_less() -> None:
    """A slow machine, deep in a prompt: by sixteens it would take more than twice as long."""
    cost, rng = StepCost(), random.Random(2)
    for step in range(300):
        size = (0, 16, 32, 65, 129)[step % 5]
        depth = rng.choice((0.0, 500.0, 1000.0, 2000.0))
        cost.observe(4, _chunks(size, depth), 0.03 + size * (2e-3 + (4e-6 if size < 65 else 2e-6) * depth))

    assert _budget(cost, 0.32, 4, 2000.0) == 65  # 0.42 s of 0.32
    assert _budget(cost, 0.25, 4, 2000.0) < 65


def test_a_part_of_a_tile_is_enough_where_its_tokens_cost_the_same() -> None:
    assert _budget(_learned(6e-3, 2e-3, 0), 0.13, 4, 0.0) < 65


def test_a_budget_keeps_a_step_within_its_target() -> None:
    cost = _learned(6e-3, 2e-3, 4e-7)

    shallow, deep = (_budget(cost, 0.25, 4, depth) for depth in (0.0, 3000.0))

    assert 64 <= deep < shallow <= 128
    assert _machine(6e-3, 2e-3, 4e-7, 4, shallow, 0.0) <= 0.3


def test_where_answers_alone_take_the_target_prompts_get_as_much_time_as_they_do() -> None:
    cost = _learned(0.1, 2e-3, 0)

    budget = _budget(cost, 0.25, 8, 0.0)

    assert 0.4 <= budget * 2e-3 / cost.decode_seconds(8) <= 1.2 or budget == 256


def test_it_begins_small_and_grows_by_what_it_sees() -> None:
    cost = StepCost()
    budgets = []
    for _ in range(8):
        cost.observe(4, [], 0.03)
        budget = _budget(cost, 0.25, 4, 0.0)
        budgets.append(budget)
        cost.observe(4, _chunks(budget, 0.0), 0.03 + budget * 1e-3)

    assert budgets[0] <= 2 * LEAST_PREFILL
    assert all(later <= 3 * earlier for earlier, later in zip(budgets, budgets[1:], strict=False))
    assert budgets[-1] >= 160


def test_one_stall_of_the_machine_is_not_believed() -> None:
    cost = _learned(6e-3, 2e-3, 0)
    before = _budget(cost, 0.25, 4, 0.0)
    cost.observe(4, _chunks(64, 0.0), 30.0)
    cost.observe(4, [], 30.0)

    assert _budget(cost, 0.25, 4, 0.0) >= before / 2


def _settle(cost: StepCost, rate: float, steps: int = 60) -> int:
    """Steps beside 4 decode rows, each with the budget it is given; returns the last one."""
    budget = 0
    for _ in range(steps):
        budget = _budget(cost, 0.25, 4, 0.0)
        cost.observe(4, _chunks(budget, 0.0), 0.03 + budget * rate)
    return budget


def test_after_a_slow_spell_budgets_are_what_they_were() -> None:
    cost = StepCost()
    before = _settle(cost, 2e-3)
    slow = _settle(cost, 2e-2)

    assert slow <= 2 * LEAST_PREFILL
    assert _settle(cost, 2e-3, steps=120) >= before - 32


def test_the_first_step_of_a_size_may_have_been_a_bad_one() -> None:
    cost = StepCost()
    cost.observe(4, [], 0.03)
    for _ in range(10):
        cost.observe(4, _chunks(32, 0.0), 0.03 + 32 * 2e-3)
    cost.observe(4, _chunks(64, 0.0), 0.03 + 64 * 7e-3)

    assert _settle(cost, 2e-3) >= 96


def test_what_decode_rows_cost_is_looked_at_before_prompts_are_judged_by_it() -> None:
    cost = StepCost()
    cost.observe(1, [], 0.03)
    cost.observe(1, _chunks(64, 0.0), 0.03 + 64 * 2e-3)
    # 8 rows take 60 ms, not 8 times what one takes.
    budget = 0
    for _ in range(40):
        budget = _budget(cost, 0.25, 8, 0.0)
        cost.observe(8, _chunks(budget, 0.0), 0.06 + budget * 2e-3)

    assert 64 <= budget <= 96


def test_a_short_prompt_leaves_a_deep_one_the_time_that_is_left() -> None:
    cost = _learned(6e-3, 2e-3, 1e-6)
    budget = cost.prompt_budget(0.35, 4)
    before = budget.tokens(2000)
    budget.spend(32, 0)

    assert budget.tokens(2000) < before
    budget.spend(96, 0)
    assert budget.tokens(2000) == 0


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 2048), st.floats(0, 1e5), st.floats(0, 100)), max_size=40),
    st.integers(0, 64),
    st.floats(0, 1e5),
    st.floats(0, 10),
)
def test_whatever_was_seen_a_budget_is_sane(
    seen: list[tuple[int, int, float, float]], rows: int, depth: float, target: float
) -> None:
    cost = StepCost()
    for decode_rows, prefill, at, seconds in seen:
        cost.observe(decode_rows, _chunks(prefill, at), seconds)

    budget = _budget(cost, target, rows, depth)
    assert budget == 0 or LEAST_PREFILL <= budget <= 2049
    if rows:
        cost.observe(rows, [], 0.01)
        assert _budget(cost, target, rows, depth) > 0, "no more than one step without prompts"
    assert cost.seconds(rows, 100, depth) >= 0


def test_prompts_that_cost_less_than_the_jitter_do_not_break_it() -> None:
    """On a GPU a chunk may be free; the difference of two noisy times is negative every other step then."""
    cost, rng = StepCost(), random.Random(3)
    for step in range(20_000):
        chunks = [] if step % 100 == 0 else [(20, 100.0)] if step % 3 else [(20, 100.0), (40, 0.0)]
        slow = 0.02 if rng.random() < 0.03 else 0.0
        cost.observe(8, chunks, 0.01 * rng.uniform(0.98, 1.02) + slow)

    assert 0.005 < cost.seconds(8, 20, 100.0) < 0.05
    assert _budget(cost, 0.35, 8, 0.0) > LEAST_PREFILL


def test_it_learns_where_no_step_is_without_prompts_by_itself() -> None:
    """Prompts are always waiting, and always several of them in a step."""
    cost = StepCost()
    took = []
    for step in range(600):
        budget = cost.prompt_budget(0.35, 8)
        chunks: list[PromptChunk] = [(200, 100.0), (112, 56.0)] if not step else []
        while step and len(chunks) < 25 and budget.tokens(0) >= 20:
            chunks.append((20, 10.0))
            budget.spend(20, 0)
        took.append(0.05 + 2e-3 * sum(tokens for tokens, _ in chunks))
        cost.observe(8 if step else 0, chunks, took[-1])

    assert 0.05 in took
    assert cost.decode_seconds(8) == pytest.approx(0.05, rel=0.2)
    assert max(took[100:]) == pytest.approx(0.35, rel=0.3)


def test_small_chunks_that_cost_less_in_company_are_learned() -> None:
    """Ends of long prompts, one by one, cost more a token than several short prompts together."""
    cost = StepCost()
    for _ in range(20):
        cost.observe(0, [(512, 256.0)], 512 * 2e-3)
        cost.observe(3, [], 0.02)
        cost.observe(3, [(30, 730.0)], 0.02 + 30 * 4e-3)
    for _ in range(40):
        cost.observe(3, [(30, 730.0)] * 4, 0.02 + 120 * 2.6e-3)

    assert cost.seconds(3, 30, 730.0) == pytest.approx(0.02 + 30 * 2.6e-3, rel=0.1)
    assert cost.seconds(0, 512, 256.0) == pytest.approx(512 * 2e-3, rel=0.3)


def test_a_first_sample_that_was_a_bad_one_is_corrected() -> None:
    cost = StepCost()
    longest = 0.0
    for step in range(600):
        rows = 4 + step % 4
        tokens = _budget(cost, 0.35, rows, 0.0)
        seconds = 0.01 * rows + 2e-3 * tokens
        if not step:
            seconds += 3.0  # the first step of all
        cost.observe(rows, _chunks(tokens, 0.0), seconds)
        if step > 100:
            longest = max(longest, seconds)

    assert cost.decode_seconds(4) < 0.1
    assert longest < 0.6


def test_more_rows_do_not_take_less() -> None:
    cost = StepCost()
    for rows, seconds in ((2, 0.02), (4, 3.0), (8, 0.06)):
        for _ in range(1 + (rows != 4)):
            cost.observe(rows, [], seconds)

    assert cost.decode_seconds(4) <= 0.04
    assert cost.decode_seconds(3) <= 0.06
