"""Ollama's variables: each sets what it means, anything of ours is stronger, and it is said which was taken over."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.config import ConfigError, load_settings
from slotwise.ollama_env import aliases_of


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("127.0.0.1", "127.0.0.1", 11434),
        ("localhost:80", "localhost", 80),
        ("localhost", "localhost", 11434),
        ("11500", "127.0.0.1", 11500),
        ("[::1]:9", "::1", 9),
        ("[::1]", "::1", 11434),
        ("::1", "::1", 11434),
        ("http://127.0.0.1", "127.0.0.1", 80),
        ("http://127.0.0.1:8080/", "127.0.0.1", 8080),
        (' "127.0.0.1:8080" ', "127.0.0.1", 8080),
    ],
)
def test_where_it_listens(text: str, host: str, port: int) -> None:
    settings = load_settings(environment={"OLLAMA_HOST": text})

    assert (settings.host, settings.port) == (host, port)


@pytest.mark.parametrize("text", ["0.0.0.0", "0.0.0.0:11434", ":8080", "[::]:80", "models.example"])
def test_other_machines_are_let_in_only_with_a_key_and_the_variable_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="in OLLAMA_HOST"):
        load_settings(environment={"OLLAMA_HOST": text})

    assert load_settings({"api_key": ["k"]}, environment={"OLLAMA_HOST": text}).host in (
        text.split(":")[0],
        "0.0.0.0",
        "::",
    )


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("OLLAMA_NUM_PARALLEL", "4", "num_parallel", 4),
        ("OLLAMA_NUM_PARALLEL", "0", "num_parallel", 8),
        ("OLLAMA_MAX_QUEUE", "17", "max_queue", 17),
        ("OLLAMA_MAX_LOADED_MODELS", "3", "max_loaded_models", 3),
        ("OLLAMA_MAX_LOADED_MODELS", "0", "max_loaded_models", None),
        ("OLLAMA_KEEP_ALIVE", "5m", "keep_alive", 300.0),
        ("OLLAMA_KEEP_ALIVE", "90", "keep_alive", 90.0),
        ("OLLAMA_KEEP_ALIVE", "0", "keep_alive", 0.0),
        ("OLLAMA_KEEP_ALIVE", "-1", "keep_alive", None),
        ("OLLAMA_KEEP_ALIVE", "-5m", "keep_alive", None),
        ("OLLAMA_CONTEXT_LENGTH", "16384", "context", 16384),
        ("OLLAMA_CONTEXT_LENGTH", "0", "context", None),
        ("OLLAMA_KV_CACHE_TYPE", "Q8_0", "kv_type", "q8_0"),
        ("OLLAMA_FLASH_ATTENTION", "1", "flash_attn", "on"),
        ("OLLAMA_FLASH_ATTENTION", "False", "flash_attn", "off"),
        ("OLLAMA_MODELS", "/srv/models", "model_folder", "/srv/models"),
        (
            "OLLAMA_ORIGINS",
            "https://a.example, chrome-extension://*",
            "cors_origin",
            ("https://a.example", "chrome-extension://*"),
        ),
        ("OLLAMA_NUM_PARALLEL", "", "num_parallel", 8),
    ],
)
def test_what_each_sets(variable: str, text: str, name: str, value: Any) -> None:
    assert getattr(load_settings(environment={variable: text}), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("OLLAMA_HOST", "https://models.example", ["https", "proxy"]),
        ("OLLAMA_HOST", "ftp://x", ["HOST:PORT"]),
        ("OLLAMA_HOST", "127.0.0.1:99999", ["65535"]),
        ("OLLAMA_HOST", "127.0.0.1:http", ["port must be a number"]),
        ("OLLAMA_HOST", "127.0.0.1:", ["port must be a number"]),
        ("OLLAMA_HOST", "http://a/b", ["path"]),
        ("OLLAMA_HOST", "a b", ["HOST:PORT"]),
        ("OLLAMA_NUM_PARALLEL", "many", ["num_parallel", "many"]),
        ("OLLAMA_NUM_PARALLEL", "-1", ["num_parallel", "greater than"]),
        ("OLLAMA_MAX_QUEUE", "x", ["max_queue"]),
        ("OLLAMA_MAX_LOADED_MODELS", "-2", ["max_loaded_models"]),
        ("OLLAMA_KEEP_ALIVE", "soon", ["keep_alive", "30m"]),
        ("OLLAMA_CONTEXT_LENGTH", "1k", ["context"]),
        ("OLLAMA_KV_CACHE_TYPE", "q3", ["kv_type", "q8_0"]),
        ("OLLAMA_FLASH_ATTENTION", "yes", ["true or false"]),
        ("OLLAMA_ORIGINS", "http://192.168.1.*", ["cors_origin", "https://chat.example"]),
        ("OLLAMA_ORIGINS", "*", ["cors_origin", "slotwise keys add"]),
    ],
)
def test_what_can_not_be_meant_is_refused_and_the_variable_named(variable: str, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environment={variable: text})

    for word in [variable, *words]:
        assert word in str(caught.value)


def test_anything_of_ours_is_stronger(tmp_path: Any) -> None:
    file = tmp_path / "slotwise.toml"
    file.write_text("max_queue = 2\n")
    environment = {
        "OLLAMA_HOST": "127.0.0.1:1",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_MAX_QUEUE": "9",
        "SLOTWISE_NUM_PARALLEL": "5",
    }

    settings = load_settings({"port": 7}, config_file=str(file), environment=environment)

    assert (settings.num_parallel, settings.max_queue, settings.port) == (5, 2, 7)
    assert settings.taken_over == ("OLLAMA_HOST is taken over: host = '127.0.0.1'. Here it is called SLOTWISE_HOST.",)


def test_what_was_taken_over_is_said_once_each() -> None:
    settings = load_settings(environment={"OLLAMA_HOST": "127.0.0.1:1", "OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_DEBUG": "1"})

    assert [sentence.partition(" ")[0] for sentence in settings.taken_over] == ["OLLAMA_HOST", "OLLAMA_KEEP_ALIVE"]
    assert (
        "host = '127.0.0.1' and port = 1. Here it is called SLOTWISE_HOST and SLOTWISE_PORT." in settings.taken_over[0]
    )
    assert load_settings(environment={}).taken_over == ()


def test_any_page_may_only_where_keys_are_asked_for() -> None:
    for flags in ({}, {"insecure_no_key": True}):
        with pytest.raises(ConfigError, match="any web page"):
            load_settings({"cors_origin": ["*"], **flags}, environment={})

    assert load_settings({"cors_origin": ["*"], "api_key": ["k"]}, environment={}).cors_origin == ("*",)
    assert load_settings(environment={"SLOTWISE_CORS_ORIGIN": "https://a, https://b"}).cors_origin == (
        "https://a",
        "https://b",
    )


@given(st.text(max_size=30))
def test_any_host_is_read_or_refused_in_words(text: str) -> None:
    refusal, aliases = "", []
    try:
        aliases = aliases_of({"OLLAMA_HOST": text})
    except ValueError as error:
        refusal = str(error)

    assert not refusal or refusal.startswith("OLLAMA_HOST is ")
    assert all(0 <= alias.settings["port"] <= 65535 and alias.settings["host"] for alias in aliases)
