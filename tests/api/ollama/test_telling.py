"""Lines and objects of answers, held against the official client's own types."""

import json
from typing import Any

import ollama
import pytest

from slotwise.api.ollama.telling import ChatTeller, GenerateTeller, LoadTeller, counts, rfc3339
from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.api.telling import Ending
from slotwise.request import FinishReason, TokenLogprob

ENDING = Ending(
    7, 3, timings={"total_ms": 3000.5, "load_ms": 400.0, "queue_ms": 500.0, "ttft_ms": 1250.0, "answer_ms": 1500.0}
)
CREATED = 1_700_000_000


def _answer(*pieces: Piece, reason: FinishReason = FinishReason.STOP) -> Answer:
    answer = Answer()
    answer.add(pieces)
    answer.finish_reason = reason
    return answer


def _lines(*data: bytes) -> list[Any]:
    text = b"".join(data).decode()
    assert text.endswith("\n")
    lines = text.removesuffix("\n").split("\n")
    assert all(lines), "an empty line is an error for the official client"
    return [json.loads(line) for line in lines]


def _stream(teller: ChatTeller | GenerateTeller, *parts: list[Piece]) -> list[Any]:
    answer = _answer(*(piece for part in parts for piece in part))
    data = [teller.first(0, 5), *(teller.part(0, part, ()) for part in parts), teller.last(0, answer)]
    return _lines(*data, teller.end([answer], ENDING))


def test_times_are_in_nanoseconds() -> None:
    assert counts(ENDING) == {
        "total_duration": 3_000_500_000,
        "load_duration": 400_000_000,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 750_000_000,
        "eval_count": 3,
        "eval_duration": 1_500_000_000,
    }
    assert set(counts(Ending(1, 1)).values()) == {0, 1}


def test_a_moment_is_written_as_ollama_does() -> None:
    assert rfc3339(CREATED + 0.9) == "2023-11-14T22:13:20Z"


def test_a_whole_chat_is_one_for_the_client() -> None:
    body = ChatTeller("m:latest", CREATED).whole([_answer(Reasoning("hm"), Text("Hel"), Text("lo"))], ENDING)
    answer = ollama.ChatResponse.model_validate(body)

    assert (answer.model, answer.created_at) == ("m:latest", "2023-11-14T22:13:20Z")
    assert (answer.message.role, answer.message.content, answer.message.thinking) == ("assistant", "Hello", "hm")
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 3)
    assert "tool_calls" not in body["message"]
    assert "logprobs" not in body


def test_a_whole_prompt_is_answered_for_the_client() -> None:
    body = GenerateTeller("m", CREATED).whole([_answer(Text("Hello"), reason=FinishReason.LENGTH)], ENDING)
    answer = ollama.GenerateResponse.model_validate(body)

    assert (answer.response, answer.done, answer.done_reason) == ("Hello", True, "length")
    assert "thinking" not in body


def test_a_stream_tells_text_and_thoughts_as_they_come_and_counts_at_the_end() -> None:
    lines = _stream(ChatTeller("m", CREATED), [Reasoning("h")], [Reasoning("m"), Text("He")], [], [Text("llo")])

    assert [line["message"].get("thinking", "") for line in lines] == ["h", "m", "", ""]
    assert [line["message"]["content"] for line in lines] == ["", "He", "llo", ""]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert lines[-1]["eval_count"] == 3
    for line in lines:
        ollama.ChatResponse.model_validate(line)


def test_a_stream_of_a_prompt_has_responses() -> None:
    lines = _stream(GenerateTeller("m", CREATED), [Reasoning("hm")], [Text("He")], [Text("llo")])

    assert [line["response"] for line in lines] == ["", "He", "llo", ""]
    assert lines[0]["thinking"] == "hm"
    assert lines[-1]["done_reason"] == "stop"


CALLS: list[Piece] = [
    CallBegins(0, "call_a", "add"),
    CallArguments(0, '{"a": 1,'),
    CallArguments(0, ' "b": [2]}'),
    CallBegins(1, "call_b", "now"),
]


def test_calls_are_told_whole_with_their_arguments_as_objects() -> None:
    expected = [("call_a", 0, "add", {"a": 1, "b": [2]}), ("call_b", 1, "now", {})]

    def found(lines: list[Any]) -> list[Any]:
        calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
        return [(c["id"], c["function"]["index"], c["function"]["name"], c["function"]["arguments"]) for c in calls]

    one_by_one = _stream(ChatTeller("m", CREATED), *([piece] for piece in CALLS))
    together = _stream(ChatTeller("m", CREATED), CALLS)
    whole = ChatTeller("m", CREATED).whole([_answer(*CALLS)], ENDING)

    assert found(one_by_one) == found(together) == found([whole]) == expected
    assert len(one_by_one) == 3, "each call as soon as it is complete, and the end"
    assert whole["done_reason"] == "stop"
    parsed = ollama.ChatResponse.model_validate(whole).message.tool_calls
    assert parsed is not None
    assert parsed[0].function.arguments == {"a": 1, "b": [2]}


@pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "x"])
def test_a_call_that_is_none_is_not_lost(arguments: str) -> None:
    pieces: list[Piece] = [CallBegins(0, "c", "add"), CallArguments(0, arguments)]
    lines = _stream(ChatTeller("m", CREATED), pieces)
    whole = ChatTeller("m", CREATED).whole([_answer(*pieces)], ENDING)

    for said in ("".join(line["message"]["content"] for line in lines), whole["message"]["content"]):
        assert said == arguments
    assert not any("tool_calls" in line["message"] for line in [*lines, whole])


def test_log_probabilities_are_told_where_they_were_asked_for() -> None:
    logprob = TokenLogprob("é".encode(), -0.5, (("é".encode(), -0.5), (b"\xc3", -2.0)))
    for teller in (ChatTeller("m", CREATED, logprobs=True), GenerateTeller("m", CREATED, logprobs=True)):
        (line,) = _lines(teller.part(0, [], [logprob]))
        (told,) = line["logprobs"]
        assert told["token"] == "é"
        assert told["bytes"] == [195, 169]
        assert [top["logprob"] for top in told["top_logprobs"]] == [-0.5, -2.0]
    answer = _answer(Text("é"))
    answer.logprobs.append(logprob)
    whole = ollama.ChatResponse.model_validate(ChatTeller("m", CREATED, logprobs=True).whole([answer], ENDING))
    assert whole.logprobs is not None
    assert whole.logprobs[0].token == "é"
    assert "logprobs" not in ChatTeller("m", CREATED).whole([answer], ENDING)


def test_who_waits_hears_of_it_in_lines_that_clients_take_for_an_empty_part() -> None:
    teller = ChatTeller("m", CREATED)
    (waiting,) = _lines(teller.waiting(b": waiting position=3 predicted_start_s=12\n\n"))
    (ping,) = _lines(teller.waiting(b": ping\n\n"))

    assert waiting["status"] == "waiting position=3 predicted_start_s=12"
    assert (waiting["done"], waiting["message"]) == (False, {"role": "assistant", "content": ""})
    assert ping["status"] == "ping"
    ollama.ChatResponse.model_validate(waiting)


def test_a_stream_that_fails_says_so_in_its_last_line() -> None:
    assert _lines(GenerateTeller("m", CREATED).failure({"error": "no"})) == [{"error": "no"}]


@pytest.mark.parametrize("kind", [ChatTeller, GenerateTeller])
@pytest.mark.parametrize("purpose", ["load", "unload"])
def test_a_load_is_told_without_the_token_that_it_took(kind: Any, purpose: Any) -> None:
    answer = _answer(Text("junk"), reason=FinishReason.LENGTH)
    teller = LoadTeller(kind("m", CREATED), purpose)
    told = teller.first(0, 5), teller.part(0, [Text("junk")], ()), teller.last(0, answer), teller.end([answer], ENDING)
    (line,) = _lines(*told)

    for body in (line, teller.whole([answer], ENDING)):
        assert "junk" not in str(body)
        assert (body["done"], body["done_reason"]) == (True, purpose)
        assert body["load_duration"] == 400_000_000
        assert "eval_count" not in body
        assert "prompt_eval_count" not in body
    assert teller.at_once()["done_reason"] == purpose
