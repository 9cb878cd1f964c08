"""Log probabilities: right ones, of the tokens whose text is told, together with it and once."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from slotwise.request import FinishReason, GenerationRequest, SamplingParams, TextPrompt, TokenLogprob
from slotwise.scheduler.lease import Lease
from slotwise.workers.fake import FakeModel
from slotwise.workers.logprobs import IMPOSSIBLE, Untold, likeliest_tokens, log_probabilities
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk
from slotwise.workers.protocol import Delta, LoadModel, ResumeSequence, StartSequence
from slotwise.workers.text import TextStream

GREEDY = SamplingParams(temperature=0)
LOGITS = np_st.arrays(
    np.float32, st.integers(1, 2000), elements=st.floats(-50, 50, width=32) | st.sampled_from([0.0, 3.0, -np.inf])
)


@given(LOGITS.filter(lambda logits: np.isfinite(logits).any()), st.integers(0, 20), st.data())
def test_they_are_the_logarithms_of_a_softmax(logits: np.ndarray, top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    exact = logits.astype(np.float64) - logits.max()
    exact -= np.log(np.exp(exact).sum())
    expected = np.maximum(exact, IMPOSSIBLE)

    logprob, likeliest = log_probabilities(logits, token, top)

    assert logprob == pytest.approx(expected[token], abs=1e-4)
    assert [value for _, value in likeliest] == pytest.approx([expected[one] for one, _ in likeliest], abs=1e-4)
    assert all(np.isfinite(value) for _, value in likeliest)


@given(LOGITS, st.integers(1, 40))
def test_the_likeliest_are_those_of_a_sort_and_equal_ones_in_order(logits: np.ndarray, count: int) -> None:
    in_order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))

    assert likeliest_tokens(logits, count).tolist() == in_order[:count]


PIECES = st.lists(
    st.sampled_from([b"", b"a", b"b", b"ab", b"cab", "é".encode(), b"\xff"])
    | st.integers(0, 3).map(lambda index: "🦙".encode()[index : index + 1]),
    max_size=30,
)
STOPS = st.lists(st.sampled_from(["ab", "abc", "aba", "éa", "b🦙", "bb"]), max_size=2)


def _say(text: TextStream, untold: Untold, piece: bytes) -> str:
    untold.add(text.characters, has_text=bool(piece))
    return text.push(piece)


@given(PIECES, STOPS, st.integers(0, 30))
def test_a_token_is_told_with_its_text_also_after_a_death(pieces: list[bytes], stops: list[str], dies_at: int) -> None:
    """The next worker hears which tokens there were, and knows by itself which of them were told."""
    text, untold = TextStream(stops), Untold()
    released, told = "", 0
    for number, piece in enumerate(pieces):
        if number == dies_at:
            text, untold = TextStream(stops), Untold()
            again = "".join(_say(text, untold, earlier) for earlier in pieces[:number])
            assert again == released
            assert untold.told(text.released) == told
        released += _say(text, untold, piece)
        told += untold.told(text.released)
        if text.stopped:
            break
    else:
        released += text.finish()
        told += untold.told(text.released)
        if not text.stopped:
            assert told == len(pieces)
    whole = b"".join(pieces[:told]).decode("utf-8", "replace")
    assert whole.startswith(released)
    # Without the last of them some of the text would be missing.
    with_text = [number for number, piece in enumerate(pieces[:told]) if piece]
    if with_text and released:
        assert len(b"".join(pieces[: with_text[-1]]).decode("utf-8", "ignore")) < len(released)


def _load(options: str = "", *, speculation: bool = False) -> LoadModel:
    return LoadModel("fake", f"fake:eos_after=30,{options}", 4, 200, 400, n_batch=16, speculation=speculation)


class Client:
    """Takes what a worker reports, as the front does."""

    def __init__(self, *, asks: bool = True) -> None:
        self.asks = asks
        request = GenerationRequest(request_id="r", model="m", prompt=TextPrompt(""))
        self.lease = Lease(request, submit=lambda lease: None, leave=lambda lease: None, clock=lambda: 0.0)
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self.ended: FinishReason | None = None

    def hear(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            assert self.ended is None
            self.text += delta.text
            self.lease.generated += delta.tokens
            self.logprobs += self.lease.told(delta.logprobs, delta.logprobs_told)
            self.ended = delta.finish_reason
            # In time: what is told covers the text that is.
            said = b"".join(one.token for one in self.logprobs).decode()
            assert said.startswith(self.text) or not self.asks


def _start(loop: StepLoop, client: Client, stop: tuple[str, ...] = (), top: int | None = 3) -> None:
    loop.prepared("r", list(b"hello"))
    generated = tuple(client.lease.generated)
    loop.start(StartSequence("r", 60, GREEDY, stop, generated=generated, top_logprobs=top))


def _answer(load: LoadModel, stop: tuple[str, ...] = (), deaths: Sequence[int] = (), top: int | None = 3) -> Client:
    client = Client(asks=top is not None)
    for steps in [*deaths, 1000]:
        loop = StepLoop(FakeModel(load))
        _start(loop, client, stop, top)
        for _ in range(steps):
            if loop.idle:
                break
            client.hear(loop.step().deltas)
        if client.ended:
            break
    return client


def test_each_token_is_told_with_the_likeliest_in_its_place() -> None:
    client = _answer(_load())

    assert b"".join(one.token for one in client.logprobs).decode() == client.text
    assert len(client.logprobs) == 30  # the token that ends the answer is none of it
    for one in client.logprobs:
        # This model is greedy, whatever it is asked for.
        assert one.top[0] == (one.token, one.logprob)
        assert len(one.top) == 3
        values = [value for _, value in one.top]
        assert values == sorted(values, reverse=True)
        assert sum(np.exp(values)) < 1


def test_nobody_is_told_who_did_not_ask_and_none_of_the_likeliest_where_there_are_to_be_none() -> None:
    assert _answer(_load(), top=None).logprobs == []
    assert {one.top for one in _answer(_load(), top=0).logprobs} == {()}


@pytest.mark.parametrize("deaths", [(), (1,), (5, 3), (2, 2, 2, 2, 2, 2, 2, 2)])
@pytest.mark.parametrize("length", [1, 3, 6])
def test_stop_strings_hold_back_and_cut_off_and_deaths_change_nothing(deaths: tuple[int, ...], length: int) -> None:
    alone = _answer(_load())
    stops = (alone.text[17 : 17 + length], alone.text[4 : 4 + length] + "!")

    client = _answer(_load(), stops, deaths)

    assert client.ended is FinishReason.STOP
    assert client.text == alone.text[: alone.text.index(stops[0])]
    assert client.logprobs == alone.logprobs[: len(client.text)]


class Clocked(FakeModel):
    """A step takes 10 ms, however many rows it has: drafts pay."""

    now = 0.0

    def decode(self, chunks: Sequence[Chunk]) -> int:
        self.now += 0.01
        return super().decode(chunks)


@pytest.mark.parametrize("speculation", [True, False])
def test_drafts_change_none_of_it(speculation: bool) -> None:
    model = Clocked(_load("period=5,eos_after=40", speculation=speculation))
    loop, client = StepLoop(model, timer=lambda: model.now), Client()
    loop.prepared("r", list(b"hello hello hello hello hello"))
    loop.start(StartSequence("r", 60, GREEDY, top_logprobs=2))
    drafted = 0
    while not loop.idle:
        report = loop.step()
        drafted += report.drafts_accepted
        client.hear(report.deltas)

    assert (drafted > 0) == speculation
    assert client.text == b"".join(one.token for one in client.logprobs).decode()
    assert client.text == 8 * client.text[:5]
    assert all(one.top[0] == (one.token, one.logprob) for one in client.logprobs)


def test_a_pause_changes_none_of_it() -> None:
    alone = _answer(_load(), ("!!",))
    loop, client = StepLoop(FakeModel(_load())), Client()
    _start(loop, client, ("!!",))
    for steps in itertools.count(1):
        for _ in range(steps):
            client.hear(loop.step().deltas)
        if client.ended:
            break
        loop.pause("r")
        loop.resume(ResumeSequence("r"))

    assert (client.text, client.logprobs) == (alone.text, alone.logprobs)


@pytest.mark.parametrize("special_text", [False, True])
def test_control_tokens_are_text_for_those_who_take_answers_apart(special_text: bool) -> None:
    loop, client = StepLoop(FakeModel(_load("mark_every=7"))), Client(asks=False)
    loop.prepared("r", list(b"hello"))
    loop.start(StartSequence("r", 60, GREEDY, ("k>!",), special_text=special_text))
    while not loop.idle:
        client.hear(loop.step().deltas)

    assert client.text.count("<mark>") == (4 if special_text else 0)
    assert "<end>" not in client.text
    assert client.ended is FinishReason.STOP
