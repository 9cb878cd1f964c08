"""What goes into a step."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.batch import OLDEST_SHARE, is_decoding, plan_step, share_budget


@dataclass
class Running:
    row: int
    tokens: list[int]
    stored: int
    prompt_tokens: int
    awaited: int = 0


@st.composite
def sequences(draw: st.DrawFn) -> list[Running]:
    running = []
    for row in draw(st.permutations(range(draw(st.integers(0, 6))))):
        prompt = draw(st.integers(1, 40))
        if draw(st.booleans()):
            output = draw(st.integers(1, 10))
            running.append(Running(row, list(range(prompt + output)), prompt + output - 1, prompt))
        else:
            stored = draw(st.integers(0, prompt - 1))
            running.append(Running(row, list(range(prompt)), stored, prompt, draw(st.integers(0, prompt))))
    return running


def _left(running: list[Running]) -> int:
    return sum(s.prompt_tokens - s.stored for s in running if not is_decoding(s))


@given(sequences(), st.integers(6, 64), st.none() | st.integers(0, 64))
def test_every_decoding_sequence_has_its_row(running: list[Running], n_batch: int, budget: int | None) -> None:
    plan = plan_step(running, n_batch, budget)
    decoding = {index for index, s in enumerate(running) if is_decoding(s)}

    assert decoding <= {share.index for share in plan.shares}
    assert plan.decode_rows == len(decoding)
    assert plan.rows == sum(len(chunk.tokens) for chunk in plan.chunks) <= n_batch


@given(sequences(), st.integers(6, 64), st.none() | st.integers(0, 64))
def test_room_and_budget_are_used_while_a_prompt_waits(running: list[Running], n: int, budget: int | None) -> None:
    plan = plan_step(running, n, budget)
    room = n - plan.decode_rows

    assert plan.prefill_tokens == min(_left(running), room if budget is None else min(room, budget))


@given(sequences(), st.integers(6, 64))
def test_chunks_continue_what_is_stored_and_ask_for_logits_where_sampled(running: list[Running], n: int) -> None:
    plan = plan_step(running, n)
    row = -1
    for share in plan.shares:
        sequence, chunk = running[share.index], share.chunk
        row += len(chunk.tokens)
        assert (chunk.seq_id, chunk.start) == (sequence.row, sequence.stored)
        assert chunk.tokens == sequence.tokens[chunk.start : chunk.start + len(chunk.tokens)] != []
        assert chunk.outputs == (chunk.start + len(chunk.tokens) == len(sequence.tokens))
        assert share.sampled == (range(row, row + 1) if chunk.outputs else range(0))
    assert [chunk.seq_id for chunk in plan.chunks] == sorted(chunk.seq_id for chunk in plan.chunks)


@given(sequences(), st.integers(1, 64))
def test_the_oldest_prompt_gets_its_quarter_whoever_came_after_it(running: list[Running], budget: int) -> None:
    counts = share_budget(running, budget)
    oldest = next((i for i, s in enumerate(running) if not is_decoding(s)), None)

    if oldest is not None:
        left = running[oldest].prompt_tokens - running[oldest].stored
        assert counts[oldest] >= min(left, budget / OLDEST_SHARE)


def test_a_short_prompt_overtakes_a_long_one_which_gets_on_all_the_same() -> None:
    running = [Running(0, list(range(1000)), 0, 1000), Running(1, list(range(30)), 0, 30)]

    assert share_budget(running, 64) == {0: 16 + 18, 1: 30}
    assert share_budget(running, 32) == {0: 8, 1: 24}


def test_a_prompt_that_others_wait_for_is_as_urgent_as_what_they_wait_for() -> None:
    oldest, short = Running(0, list(range(500)), 0, 500), Running(1, list(range(50)), 0, 50)
    leader = Running(2, list(range(900)), 0, 900, awaited=40)

    assert share_budget([oldest, short, leader], 40) == {0: 10, 2: 30}


def test_no_budget_takes_no_prompts() -> None:
    running = [Running(0, [1, 2, 3], 2, 2), Running(1, [1, 2, 3], 0, 3)]

    plan = plan_step(running, 16, 0)

    assert [chunk.seq_id for chunk in plan.chunks] == [0]
