"""What goes into a step."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.batch import LEAST_CHUNK, OLDEST_TURN, NoPrompts, is_decoding, plan_step, share_room


@dataclass
class Running:
    row: int
    tokens: list[int]
    stored: int
    prompt_tokens: int
    awaited: int = 0
    level: int = 0


@st.composite
def sequences(draw: st.DrawFn) -> list[Running]:
    running = []
    for row in draw(st.permutations(range(draw(st.integers(0, 6))))):
        prompt = draw(st.integers(1, 40))
        if draw(st.booleans()):
            output = draw(st.integers(1, 10))
            # Most have all but the last token in cells; one that was paused may have lost some, or all.
            lost = draw(st.sampled_from([0, 0, 0, 1, 5, prompt + output - 1]))
            stored = max(prompt + output - 1 - lost, 0)
            running.append(Running(row, list(range(prompt + output)), stored, prompt))
        else:
            stored = draw(st.integers(0, prompt - 1))
            running.append(Running(row, list(range(prompt)), stored, prompt, draw(st.integers(0, prompt))))
    return running


class Tokens:
    """A budget of so many tokens, wherever they stand."""

    def __init__(self, count: int) -> None:
        self.count = count

    def tokens(self, start: int) -> int:
        return self.count

    @property
    def spent(self) -> bool:
        return not self.count

    def spend(self, tokens: int, start: int) -> None:
        assert 0 < tokens <= self.count
        self.count -= tokens


def _budget(count: int | None) -> Tokens | None:
    return None if count is None else Tokens(count)


def _left(running: list[Running]) -> int:
    return sum(len(s.tokens) - s.stored for s in running if not is_decoding(s))


@given(sequences(), st.integers(6, 64), st.none() | st.integers(0, 64))
def test_every_decoding_sequence_has_its_row(running: list[Running], n_batch: int, budget: int | None) -> None:
    plan = plan_step(running, n_batch, _budget(budget))
    decoding = {index for index, s in enumerate(running) if is_decoding(s)}

    assert decoding <= {share.index for share in plan.shares}
    assert plan.decode_rows == len(decoding)
    assert plan.rows == sum(len(chunk.tokens) for chunk in plan.chunks) <= n_batch


@given(sequences(), st.integers(6, 200), st.none() | st.integers(0, 200), st.integers(0, 7))
def test_room_and_budget_are_used_but_for_crumbs(running: list[Running], n: int, budget: int | None, turn: int) -> None:
    plan = plan_step(running, n, _budget(budget), turn=turn)
    room = n - plan.decode_rows
    allowed = min(_left(running), room if budget is None else min(room, budget))

    assert plan.prefill_tokens <= allowed
    assert allowed - plan.prefill_tokens < LEAST_CHUNK
    assert (plan.prefill_tokens > 0) == (allowed > 0)


@given(sequences(), st.integers(1, 200), st.integers(0, 7))
def test_of_several_chunks_each_is_a_whole_one_or_a_prompts_rest(
    running: list[Running], budget: int, turn: int
) -> None:
    counts, _ = share_room(running, budget, None, turn)
    for index in list(counts)[1:]:
        assert counts[index] in (len(running[index].tokens) - running[index].stored, *range(LEAST_CHUNK, budget))


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
def test_the_oldest_prompt_has_its_turn_whoever_came_after_it(running: list[Running], budget: int) -> None:
    oldest = next((i for i, s in enumerate(running) if not is_decoding(s)), None)
    if oldest is not None:
        left = len(running[oldest].tokens) - running[oldest].stored
        turns = [share_room(running, budget, None, turn)[0].get(oldest, 0) for turn in range(OLDEST_TURN)]
        assert max(turns) == min(left, budget)


def test_a_short_prompt_overtakes_a_long_one_which_gets_on_all_the_same() -> None:
    running = [Running(0, list(range(1000)), 0, 1000), Running(1, list(range(30)), 0, 30)]

    assert share_room(running, 128, None, 1)[0] == {1: 30, 0: 98}
    assert share_room(running, 64, None, 1)[0] == {1: 30}  # 34 tokens of the long one would cost as much as 64
    assert share_room(running, 64, None, OLDEST_TURN)[0] == {0: 64}


def test_a_step_that_ends_a_prompt_may_be_brief() -> None:
    """The short prompts' answers begin without waiting for a part of the long one, which has the next step."""
    long, *short = [Running(row, list(range(size)), 0, size) for row, size in enumerate((1000, 30, 20))]

    assert share_room([long, *short], 300, None, 1, may_be_brief=True) == ({2: 20, 1: 30}, True)
    assert share_room([long, *short], 300, None, 1) == ({2: 20, 1: 30, 0: 250}, False)
    assert share_room([long], 300, None, 1, may_be_brief=True) == ({0: 300}, False)
    assert share_room(short, 300, None, 1, may_be_brief=True) == ({1: 20, 0: 30}, False)


def test_a_prompt_that_others_wait_for_is_as_urgent_as_what_they_wait_for() -> None:
    oldest, short = Running(0, list(range(500)), 0, 500), Running(1, list(range(50)), 0, 50)
    leader = Running(2, list(range(900)), 0, 900, awaited=40)

    assert share_room([oldest, short, leader], 40, None, 1)[0] == {2: 40}


def test_no_budget_takes_no_prompts() -> None:
    running = [Running(0, [1, 2, 3], 2, 2), Running(1, [1, 2, 3], 0, 3)]

    plan = plan_step(running, 16, NoPrompts())

    assert [chunk.seq_id for chunk in plan.chunks] == [0]
