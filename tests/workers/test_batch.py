"""What goes into a step."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.batch import is_decoding, plan_step


@dataclass
class Running:
    seq_id: int
    tokens: list[int]
    stored: int
    prompt_tokens: int


@st.composite
def sequences(draw: st.DrawFn) -> list[Running]:
    running = []
    for seq_id in range(draw(st.integers(0, 6))):
        prompt = draw(st.integers(1, 40))
        if draw(st.booleans()):
            output = draw(st.integers(1, 10))
            running.append(Running(seq_id, list(range(prompt + output)), prompt + output - 1, prompt))
        else:
            running.append(Running(seq_id, list(range(prompt)), draw(st.integers(0, prompt - 1)), prompt))
    return running


@given(sequences(), st.integers(6, 64))
def test_every_decoding_sequence_has_its_row_before_any_prompt(running: list[Running], n_batch: int) -> None:
    plan = plan_step(running, n_batch)
    decoding = [s.seq_id for s in running if is_decoding(s)]

    assert [row.seq_id for row in plan.rows[: plan.decode_rows]] == decoding
    assert len(plan.rows) <= n_batch
    assert len(plan.rows) == plan.decode_rows + plan.prefill_tokens


@given(sequences(), st.integers(6, 64))
def test_rows_continue_what_is_stored_and_ask_for_logits_only_where_sampled(running: list[Running], n: int) -> None:
    plan = plan_step(running, n)
    position = {s.seq_id: s.stored for s in running}
    for row in plan.rows:
        assert row.position == position[row.seq_id]
        assert row.token == running[row.seq_id].tokens[row.position]
        assert row.output == (row.position == len(running[row.seq_id].tokens) - 1)
        position[row.seq_id] += 1
    for share in plan.shares:
        complete = share.start + share.count == len(running[share.index].tokens)
        assert (share.row is not None) == complete
        assert share.row is None or plan.rows[share.row].seq_id == running[share.index].seq_id


@given(sequences(), st.integers(6, 64))
def test_room_is_never_left_while_a_prompt_waits(running: list[Running], n_batch: int) -> None:
    plan = plan_step(running, n_batch)
    waiting = sum(s.prompt_tokens - s.stored for s in running if not is_decoding(s))

    assert plan.prefill_tokens == min(waiting, n_batch - plan.decode_rows)


def test_the_retreat_takes_no_prompts() -> None:
    running = [Running(0, [1, 2, 3], 2, 2), Running(1, [1, 2, 3], 0, 3)]

    plan = plan_step(running, 16, prefill=False)

    assert [row.seq_id for row in plan.rows] == [0]
