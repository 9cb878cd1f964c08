"""Conversations are as long as asked, the same for every server, and share what they are to share."""

import os.path
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.asks import Ask, Conversation
from slotwise.benchmarks.lengths import fixed, uniform
from slotwise.benchmarks.prompts import Ruler
from slotwise.benchmarks.talks import Documents, Speaker, Talk, TracedRequest, conversation, traced

#: A word is a token, a template 20.
RULER = Ruler(20.0, 1.0)
SPEAKER = Speaker(RULER, seed=1, salt="a", models=("first", "second"))


def _all(asked: Conversation, answer: str = "so it is") -> list[Ask]:
    """Every ask of a conversation whose answers are all the same."""
    asks = [next(asked)]
    try:
        while True:
            asks.append(asked.send(answer))
    except StopIteration:
        return asks


def _words(ask: Ask) -> int:
    return sum(len(message["content"].split()) for message in ask.messages)


def _beginning(asks: Sequence[Ask]) -> int:
    """Words that the whole texts of these asks begin with in common."""
    texts = [" ".join(message["content"] for message in ask.messages) for ask in asks]
    return len(os.path.commonprefix(texts).split())


def test_a_single_prompt_has_its_length_with_the_template() -> None:
    (ask,) = _all(conversation(Talk(prompt=fixed(128), output=fixed(7)), SPEAKER, "all", 0, who="x", key="k"))

    assert _words(ask) == 128 - 20
    assert (ask.max_tokens, ask.exact, ask.key, ask.who, ask.model) == (7, True, "k", "x", "first")
    assert not ask.keep_text


def test_who_edits_brings_a_text_and_asks_for_all_of_it_again() -> None:
    talk = Talk(prompt=fixed(200), output=fixed(200), turns=fixed(3), edits=True)
    asks = _all(conversation(talk, SPEAKER, "all", 0))

    questions = [[m["content"] for m in ask.messages if m["role"] == "user"] for ask in asks]
    assert [len(each) for each in questions] == [1, 2, 3]
    assert 190 <= len(questions[2][0].split()) <= 220
    assert all(len(question.split()) < 25 for question in questions[2][1:])
    assert questions[2][1] != questions[2][2]


def test_lengths_are_the_seeds_and_words_are_the_salts() -> None:
    talk = Talk(prompt=uniform(10, 500), output=uniform(1, 100))

    def said(speaker: Speaker, number: int) -> Ask:
        return _all(conversation(talk, speaker, "all", number))[0]

    ours = [said(SPEAKER, number) for number in range(20)]
    theirs = [said(replace(SPEAKER, salt="b"), number) for number in range(20)]
    assert [_words(ask) for ask in ours] == [_words(ask) for ask in theirs]
    assert [ask.max_tokens for ask in ours] == [ask.max_tokens for ask in theirs]
    assert all(_beginning([mine, other]) <= 3 for mine, other in zip(ours, theirs, strict=True))
    assert [said(SPEAKER, number) for number in range(20)] == ours
    again = [said(replace(SPEAKER, seed=2), number) for number in range(20)]
    assert [_words(ask) for ask in ours] != [_words(ask) for ask in again]


def test_a_system_prompt_is_common_to_all_and_the_rest_is_not() -> None:
    talk = Talk(prompt=fixed(30), system=200)
    asks = [_all(conversation(talk, SPEAKER, "all", number))[0] for number in range(10)]

    assert all(ask.messages[0]["role"] == "system" for ask in asks)
    assert 200 <= _beginning(asks) <= 203
    assert _words(asks[0]) == 230
    other = _all(conversation(talk, replace(SPEAKER, salt="b"), "all", 0))[0]
    assert _beginning([asks[0], other]) <= 3, "another run shares nothing with this one"


def test_turns_bring_the_history_along() -> None:
    asks = _all(conversation(Talk(prompt=fixed(40), turns=fixed(3), system=50), SPEAKER, "all", 0))

    assert [len(ask.messages) for ask in asks] == [2, 4, 6]
    assert asks[2].messages[:4] == asks[1].messages
    assert asks[1].messages[2] == {"role": "assistant", "content": "so it is"}
    assert all(ask.keep_text for ask in asks)


def test_a_conversation_ends_before_it_outgrows_the_context() -> None:
    talk = Talk(prompt=fixed(100), output=fixed(50), turns=fixed(12), system=200)
    asks = _all(conversation(talk, replace(SPEAKER, context=800), "all", 0), answer=" ".join(["word"] * 50))

    assert 1 < len(asks) < 12
    assert _words(asks[-1]) + 50 <= 800
    assert all(ask.cut for ask in asks)
    assert not any(ask.cut for ask in _all(conversation(talk, SPEAKER, "all", 0)))


@given(st.integers(1, 5000), st.integers(1, 2000), st.integers(0, 300), st.integers(400, 3000))
def test_nothing_longer_than_the_context_is_asked(prompt: int, output: int, system: int, context: int) -> None:
    talk = Talk(prompt=fixed(prompt), output=fixed(output), system=system)
    (ask,) = _all(conversation(talk, replace(SPEAKER, context=context), "all", 0))

    # A prompt has a word at least, whatever is left for it.
    assert _words(ask) + 20 + ask.max_tokens <= max(context, system + 21 + context // 2)
    fits = system + prompt + output + 46 <= context and output <= context // 2
    assert ask.cut is not fits


def test_documents_come_from_a_pool_and_the_first_are_asked_about_most() -> None:
    talk = Talk(prompt=fixed(20), system=10, documents=Documents(5, 100, fixed(1)))
    asks = [_all(conversation(talk, SPEAKER, "all", number))[0] for number in range(200)]

    counted: dict[str, int] = {}
    for ask in asks:
        document, question = ask.messages[1]["content"].split("\n\n")
        assert (len(document.split()), len(question.split())) == (100, 20)
        counted[document] = counted.get(document, 0) + 1
    assert len(counted) == 5
    # Zipf over five: 44%, 22%, 15%, 11%, 9%.
    often = sorted(counted.values(), reverse=True)
    assert 65 <= often[0] <= 110
    assert often[-1] <= 35


def test_some_leave() -> None:
    talk = Talk(prompt=fixed(20), cancel_share=0.2, cancel_after=1.5)
    asks = [_all(conversation(talk, SPEAKER, "all", number))[0] for number in range(500)]

    leaving = [ask for ask in asks if ask.cancel_after is not None]
    assert 70 <= len(leaving) <= 130
    assert {ask.cancel_after for ask in leaving} == {1.5}


def test_texts_to_embed() -> None:
    (ask,) = _all(conversation(Talk(prompt=fixed(30), inputs=4, model=1), SPEAKER, "all", 0))

    assert [len(text.split()) for text in ask.inputs] == [30] * 4
    assert (ask.model, ask.messages) == ("second", ())


def test_a_trace_shares_its_blocks() -> None:
    requests = [TracedRequest(0, 1100, 10, (7, 8)), TracedRequest(1, 1200, 20, (7, 9)), TracedRequest(2, 300, 0, (7,))]
    asks = [_all(traced(request, SPEAKER, number))[0] for number, request in enumerate(requests)]

    assert [_words(ask) for ask in asks] == [1100, 1200, 280]
    assert 512 <= _beginning(asks[:2]) <= 515
    assert _beginning([asks[0], asks[2]]) <= 3, "shorter than a block"
    assert [ask.max_tokens for ask in asks] == [10, 20, 1]
    (cut,) = _all(traced(requests[0], replace(SPEAKER, context=700), 0))
    assert cut.cut
    assert _words(cut) + 10 <= 700


def test_a_part_of_an_answer_may_be_asked_for() -> None:
    (ask,) = _all(conversation(Talk(output=fixed(100)), SPEAKER, "all", 0, part=0.25))
    (least,) = _all(conversation(Talk(output=fixed(100)), SPEAKER, "all", 0, part=0.0))

    assert (ask.max_tokens, least.max_tokens) == (25, 1)


def test_answers_may_end_by_themselves() -> None:
    (ask,) = _all(conversation(Talk(), replace(SPEAKER, natural_length=True), "all", 0))

    assert not ask.exact


def test_scaling_scales_everything() -> None:
    talk = Talk(prompt=fixed(400), output=fixed(100), system=1000, documents=Documents(3, 600, fixed(2))).scaled(0.25)

    assert (talk.prompt.high, talk.output.high, talk.system) == (100, 25, 250)
    assert talk.documents is not None
    assert talk.documents.tokens == 150
    assert not talk.is_uniform
    assert Talk(prompt=fixed(5), output=fixed(5)).is_uniform
