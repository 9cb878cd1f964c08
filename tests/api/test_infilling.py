"""Bodies that ask for what stands between two texts."""

import json
from typing import Any

import pytest

from slotwise.api.asked import ParsedRequest
from slotwise.api.modelcards import capabilities
from slotwise.api.ollama import models
from slotwise.api.ollama.names import Served
from slotwise.api.ollama.schema import parse_generate
from slotwise.api.schema import parse_completion
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts
from slotwise.request import InfillPrompt, TextPrompt

CODER = ModelFacts("m", template="{{ messages }}", infills=True)


def _completion(**body: Any) -> ParsedRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "def f(", "suffix": "):"} | body).encode())


def _generate(**body: Any) -> ParsedRequest:
    whole = {"model": "m", "prompt": "def f(", "suffix": "):"} | body
    return parse_generate(json.dumps(whole).encode(), find=lambda called: Served(CODER, str(called), 512))


def test_a_completion_goes_on_to_its_suffix() -> None:
    (only,) = _completion().choices
    assert only.prompt == InfillPrompt("def f(", "):")
    prompts = [choice.prompt for choice in _completion(prompt=["a", ""], n=2).choices]
    assert prompts == [InfillPrompt("a", "):")] * 2 + [InfillPrompt("", "):")] * 2


@pytest.mark.parametrize("suffix", [None, ""])
def test_an_empty_suffix_is_none(suffix: str | None) -> None:
    assert _completion(suffix=suffix).choices[0].prompt == TextPrompt("def f(")


def test_what_is_told_again_is_the_text_before_the_gap() -> None:
    assert _completion(prompt=["a", "b"], echo=True).echo == ("a", "b")


@pytest.mark.parametrize("raw", [False, True])
def test_ollamas_suffix_needs_no_template(raw: bool) -> None:
    (only,) = _generate(raw=raw, format="json").choices

    assert only.prompt == InfillPrompt("def f(", "):")
    assert only.constraint is not None


def test_ollamas_suffix_may_stand_alone() -> None:
    assert _generate(prompt="").choices[0].prompt == InfillPrompt("", "):")


def test_a_system_message_has_no_place_beside_a_suffix() -> None:
    with pytest.raises(InvalidRequest, match="'suffix' there is no conversation") as caught:
        _generate(system="Be brief.")
    assert caught.value.param == "system"


def test_models_that_fill_gaps_say_so() -> None:
    assert models.capabilities(CODER) == capabilities(CODER) == ["completion", "insert"]
    assert "insert" in models.shown(Served(CODER, "m", 512), verbose=False)["capabilities"]
