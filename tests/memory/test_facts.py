"""What a model file says, without loading it."""

from pathlib import Path

import pytest

from slotwise.loads import demo_model_path
from slotwise.memory.facts import ModelFacts, Pooling, facts_of, read_facts
from slotwise.memory.gguf import GGUFHeader


@pytest.mark.model
def test_of_the_demo_model() -> None:
    facts = read_facts("demo", demo_model_path())

    assert (facts.architecture, facts.quantisation, facts.parameters) == ("llama", "Q4_1", 134_515_008)
    assert (facts.context_train, facts.embedding_length) == (8192, 576)
    assert facts.size_bytes == Path(demo_model_path()).stat().st_size
    assert facts.template
    assert not any((facts.embeds, facts.ranks, facts.takes_tools, facts.thinks))


def _header(**metadata: int | str) -> GGUFHeader:
    return GGUFHeader(3, {"general.architecture": "bert", **metadata}, (), 10)


def _of_qwen(pooling: int) -> ModelFacts:
    metadata: dict[str, int | str] = {"general.architecture": "qwen3", "qwen3.pooling_type": pooling}
    return facts_of("m", _header(**metadata), 0.0)


def test_what_embeds_and_what_ranks() -> None:
    last, rank, none, odd = map(_of_qwen, (3, 4, 0, 77))

    assert (last.pooling, last.embeds, last.ranks, last.kind) == (Pooling.LAST, True, False, "embedding")
    assert (rank.embeds, rank.ranks, rank.kind) == (False, True, "rank")
    assert none.pooling is odd.pooling is None
    assert none.kind == "text"


def test_an_encoder_embeds_whatever_its_file_says() -> None:
    assert facts_of("m", _header(), 0.0).pooling is Pooling.MEAN
    assert facts_of("m", _header(**{"bert.pooling_type": 0}), 0.0).pooling is Pooling.MEAN
    assert facts_of("m", _header(**{"bert.pooling_type": 2}), 0.0).pooling is Pooling.CLS


def test_a_template_tells_of_tools_and_thoughts() -> None:
    facts = facts_of("m", _header(**{"tokenizer.chat_template": "{% if tools %}{% endif %}<think>"}), 0.0)

    assert facts.takes_tools
    assert facts.thinks


def test_what_can_not_be_read_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no model")

    assert read_facts("m", str(tmp_path / "x.gguf")) == ModelFacts("m")
    assert read_facts("m", str(tmp_path / "absent.gguf")) == ModelFacts("m")
