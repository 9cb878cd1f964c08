"""Models as they are listed and shown."""

import ollama
import pytest

from slotwise.api.ollama.models import capabilities, digest, listed, parameter_size, running, shown
from slotwise.api.ollama.names import Served, tagged
from slotwise.memory.facts import ModelFacts, Pooling
from tests.api.fakes import memory_of_two_models

FACTS = ModelFacts(
    "a",
    architecture="llama",
    parameters=134_515_008,
    quantisation="Q4_1",
    size_bytes=98_362_432,
    modified_at=1_700_000_000.5,
    context_train=8192,
    template="{{ messages }}",
    metadata={
        "general.architecture": "llama",
        "general.license": "apache-2.0",
        "llama.context_length": 8192,
        "tokenizer.ggml.tokens": None,
        "tokenizer.chat_template": "{{ messages }}",
        "general.languages": ["en"],
    },
)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (0, "0"),
        (999, "999"),
        (15_000, "15K"),
        (134_515_008, "134.52M"),
        (999_949_999, "999.95M"),
        (999_950_000, "1.0B"),
        (8_030_261_248, "8.0B"),
        (70_553_706_496, "70.6B"),
    ],
)
def test_sizes_are_written_as_ollama_does(parameters: int, text: str) -> None:
    assert parameter_size(parameters) == text


def test_every_listed_name_has_a_tag() -> None:
    assert [tagged(name) for name in ("a", "a:7b", "org/a", "a:latest")] == [
        *("a:latest", "a:7b", "org/a:latest", "a:latest"),
    ]


def test_a_listed_model_is_one_for_the_client() -> None:
    (model,) = ollama.ListResponse.model_validate({"models": [listed(FACTS)]}).models

    assert model.model == "a:latest"
    assert model.size == 98_362_432
    assert model.modified_at is not None
    assert model.modified_at.timestamp() == 1_700_000_000
    assert model.details is not None
    assert (model.details.family, model.details.families) == ("llama", ["llama"])
    assert (model.details.parameter_size, model.details.quantization_level) == ("134.52M", "Q4_1")


def test_a_digest_tells_files_apart() -> None:
    others = [
        ModelFacts("a", size_bytes=1),
        ModelFacts("a", size_bytes=2),
        ModelFacts("b", size_bytes=1),
        ModelFacts("a", size_bytes=1, modified_at=1.0),
    ]

    assert len({digest(facts) for facts in others}) == 4
    assert digest(FACTS) == digest(FACTS)
    assert len(digest(FACTS)) == 64


@pytest.mark.parametrize(
    ("facts", "able"),
    [
        (ModelFacts("m"), ["completion"]),
        (ModelFacts("m", template="{{ tools }} <think>"), ["completion", "tools", "thinking"]),
        (ModelFacts("m", infills=True), ["completion", "insert"]),
        (ModelFacts("m", pooling=Pooling.MEAN), ["embedding"]),
        (ModelFacts("m", pooling=Pooling.RANK), []),
    ],
)
def test_what_a_model_can_do_is_known_by_its_file(facts: ModelFacts, able: list[str]) -> None:
    assert capabilities(facts) == able


def test_a_shown_model_says_the_context_that_is_served() -> None:
    body = shown(Served(FACTS, "a", 512), verbose=False)
    model = ollama.ShowResponse.model_validate(body)

    assert model.template == "{{ messages }}"
    assert model.license == "apache-2.0"
    assert model.parameters == "num_ctx 512"
    assert model.capabilities == ["completion"]
    assert model.modelinfo is not None
    assert model.modelinfo["llama.context_length"] == 512
    assert model.modelinfo["general.parameter_count"] == 134_515_008
    assert model.modelinfo["general.languages"] is None
    assert "tokenizer.chat_template" not in model.modelinfo
    assert FACTS.metadata["llama.context_length"] == 8192
    larger = shown(Served(FACTS, "a", 100_000), verbose=True)["model_info"]
    assert larger["llama.context_length"] == 8192, "no more than it was made for"
    assert larger["general.languages"] == ["en"]


def test_a_model_whose_file_says_nothing_is_shown_all_the_same() -> None:
    body = shown(Served(ModelFacts("m"), "m", 512), verbose=False)

    assert body["model_info"]["unknown.context_length"] == 512
    assert ollama.ShowResponse.model_validate(body).template == ""


def test_a_loaded_model_takes_what_is_reserved_for_it() -> None:
    memory = memory_of_two_models()
    body = running(FACTS, 512, memory, 60.0, 1_700_000_000.0)
    (model,) = ollama.ProcessResponse.model_validate({"models": [body]}).models

    assert (model.name, model.model, model.context_length) == ("a:latest", "a:latest", 512)
    assert (model.size, model.size_vram) == (170, 50)
    assert model.expires_at is not None
    assert model.expires_at.timestamp() == 1_700_000_060
    kept = running(FACTS, 512, memory, None, 1_700_000_000.0)["expires_at"]
    # As a keep_alive of so many seconds has it: no calendar goes so far.
    assert running(FACTS, 512, memory, 1e300, 1_700_000_000.0)["expires_at"] == kept
    assert kept.startswith("2123-"), "more than twenty years is for ever"
