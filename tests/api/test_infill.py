"""POST /infill, as editors ask llama-server."""

from typing import Any

import pytest

from slotwise.api.app import create_app
from slotwise.api.asked import NOBODY
from slotwise.api.infill import InfillRequest, parse_infill
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts
from slotwise.request import GenerationRequest, InfillPrompt
from tests.api.fakes import Client, FakeGeneration, answering, served

BODY = {"input_prefix": "def f(", "input_suffix": "):"}
#: What llama.vim sends.
VIM = BODY | {
    "id_slot": 0,
    "input_extra": [{"filename": "a.py", "text": "one"}, {"text": "two"}],
    "prompt": "a",
    "n_predict": 8,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": ["content", "timings/prompt_n", "timings/predicted_n", "truncated", "nothing/there", ""],
    "model": "",
}


def _parsed(**body: Any) -> InfillRequest:
    return parse_infill(BODY | body, "m", 512, NOBODY)


def _only(**body: Any) -> GenerationRequest:
    (choice,) = _parsed(**body).choices
    return choice


async def _post(body: object, service: FakeGeneration | None = None) -> Client:
    app = create_app(service or answering(), catalogue={"m": ModelFacts("m", infills=True)})
    return await Client(app, "/infill", body).run()


def test_what_editors_send_is_understood() -> None:
    asked = _only(**VIM)

    extra = (("a.py", "one"), ("tmp", "two"))
    assert asked.prompt == InfillPrompt("def f(a", "):", "input_suffix", extra, 504)
    assert (asked.max_output_tokens, asked.stop, asked.sampling.top_p, asked.stream) == (8, (), 0.9, False)


@pytest.mark.parametrize(
    ("n_predict", "tokens", "most"), [(None, None, 384), (-1, None, 384), (0, 1, 511), (400, 400, 256)]
)
def test_some_of_the_context_is_kept_for_the_answer(n_predict: int | None, tokens: int | None, most: int) -> None:
    asked = _only(n_predict=n_predict)

    assert isinstance(asked.prompt, InfillPrompt)
    assert (asked.max_output_tokens, asked.prompt.most) == (tokens, most)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_prefix": None}, "input_prefix"),
        ({"input_suffix": 1}, "input_suffix"),
        ({"prompt": []}, "prompt"),
        ({"input_prefix": "x" * 60_000, "prompt": "x" * 60_000}, "input_prefix"),
        ({"n_predict": "x"}, "n_predict"),
        ({"stop": 0}, "stop"),
        ({"input_extra": {}}, "input_extra"),
        ({"input_extra": ["x"]}, "input_extra[0]"),
        ({"input_extra": [{"filename": 1, "text": "x"}]}, "input_extra[0].filename"),
        ({"input_extra": [{"filename": "x"}]}, "input_extra[0].text"),
        ({"response_fields": [1]}, "response_fields[0]"),
        ({"response_fields": [None]}, "response_fields[0]"),
        ({"temperature": 9}, "temperature"),
    ],
)
def test_a_bad_field_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _parsed(**body)
    assert caught.value.param == param


async def test_an_answer_is_one_of_llama_servers() -> None:
    told = (await _post(BODY)).json

    assert (told["content"], told["stop"], told["stop_type"], told["truncated"]) == ("Hello", True, "eos", False)
    assert (told["model"], told["tokens_predicted"], told["tokens_evaluated"]) == ("m", 2, 5)
    assert told["generation_settings"]["n_ctx"] == 512
    assert (told["timings"]["prompt_n"], told["timings"]["cache_n"], told["timings"]["predicted_n"]) == (2, 3, 2)


async def test_only_what_is_wanted_is_told() -> None:
    assert (await _post(VIM)).json == {
        "content": "Hello",
        "timings/prompt_n": 2,
        "timings/predicted_n": 2,
        "truncated": False,
    }


async def test_a_prompt_that_is_only_to_be_known_has_no_answer() -> None:
    assert (await _post(BODY | {"n_predict": 0})).json["content"] == ""


async def test_a_stream_ends_with_its_figures() -> None:
    client = await _post(BODY | {"stream": True})

    first, second, last = client.events
    assert [first["content"], second["content"], last["content"]] == ["Hel", "lo", ""]
    assert [event["stop"] for event in client.events] == [False, False, True]
    assert last["tokens_predicted"] == 2
    assert not client.done, "llama-server says no [DONE] here"


async def test_a_model_is_named_where_there_are_several() -> None:
    client = await _post(BODY, answering(served("m"), served("n")))

    assert (client.status, client.error["param"]) == (400, "model")
