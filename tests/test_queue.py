"""A real server whose one slot is taken: what those who wait are told, and what a key is told of its limits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from slotwise.keys.store import KeyStore
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import KeyPolicy
from tests.server_process import ServerProcess, run_server

FAKE = "m=fake:step_ms=5,eos_after=0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("queue")


@pytest.fixture(scope="module")
def secrets(folder: Path) -> dict[str, str]:
    policies = {
        "ann": KeyPolicy(),
        "bob": KeyPolicy(priority=Priority.HIGH),
        "cat": KeyPolicy(max_parallel=1, max_queued=1, tokens_per_minute=6000),
    }
    store = KeyStore(folder)
    return {name: store.add(name, policy, time.time()) for name, policy in policies.items()}


@pytest.fixture(scope="module")
def server(folder: Path, secrets: dict[str, str]) -> Iterator[ServerProcess]:
    arguments = (FAKE, "--num-parallel", "1", "--context", "4096", "--preload", "--data", str(folder))
    with run_server(folder / "log", *arguments) as running:
        running.api_key = secrets["ann"]
        while running.model()["state"] != "ready":
            time.sleep(0.02)
        yield running
        running.wait_until_idle()


def _headers(secrets: dict[str, str], key: str, request_id: str = "", tell: str = "") -> dict[str, str]:
    said = {"x-request-id": request_id, "x-slotwise-queue": tell}
    return {"authorization": f"Bearer {secrets[key]}"} | {name: value for name, value in said.items() if value}


@contextmanager
def _stream(
    server: ServerProcess, headers: dict[str, str], max_tokens: int = 2000, **fields: Any
) -> Iterator[httpx.Response]:
    body = {"model": "m", "prompt": "x", "max_tokens": max_tokens, "stream": True} | fields
    with httpx.stream("POST", f"{server.base_url}/completions", json=body, headers=headers, timeout=30) as response:
        yield response


def _queue(server: ServerProcess, secrets: dict[str, str], key: str) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{server.base_url}/slotwise/queue", headers=_headers(secrets, key)).json()
    return told


def test_who_waits_is_told_where_it_stands(server: ServerProcess, secrets: dict[str, str]) -> None:
    """It leaves before its turn, so nothing here depends on how fast the machine is."""
    with (
        _stream(server, _headers(secrets, "ann", "first")),
        _stream(server, _headers(secrets, "ann", "second", "1")) as waiting,
    ):
        lines = (line for line in waiting.iter_lines() if line)
        said = next(lines)
        own, others = _queue(server, secrets, "ann"), _queue(server, secrets, "bob")

    assert said.startswith(": waiting position=1")
    assert [(one["request_id"], one["state"], one["position"]) for one in own["requests"]] == [
        ("first", "running", None),
        ("second", "waiting", 1),
    ]
    assert own["requests"][1]["waited_s"] >= 1.0
    assert own["requests"][1]["predicted_start_s"] > 0.0
    assert others["requests"] == []
    assert others["requests_total"] == 0
    (line,) = others["models"]
    assert (line["running"], line["waiting"], line["slots"]) == (1, 1, 1)
    server.wait_until_idle()


def test_who_is_paused_is_told_so(server: ServerProcess, secrets: dict[str, str]) -> None:
    """A higher class takes its slot."""
    with _stream(server, _headers(secrets, "ann", "low", "1"), stream_options={"include_usage": True}) as paused:
        lines = paused.iter_lines()
        next(lines)
        with _stream(server, _headers(secrets, "bob", "high"), max_tokens=4000):
            assert next(line for line in lines if line.startswith(":")) == ": paused"
            (own,) = _queue(server, secrets, "ann")["requests"]
            assert own["state"] == "paused"
            text = httpx.get(f"{server.root}/metrics", headers=_headers(secrets, "ann")).text
            assert 'slotwise_pauses_total{model="m"} 1.0' in text
    server.wait_until_idle()


def test_comments_do_not_disturb_the_official_client(server: ServerProcess, secrets: dict[str, str]) -> None:
    client = openai.OpenAI(base_url=server.base_url, api_key=secrets["ann"], max_retries=0)
    with client, _stream(server, _headers(secrets, "ann"), max_tokens=600):
        headers = {"X-Slotwise-Queue": "1"}
        stream = client.completions.create(model="m", prompt="x", max_tokens=3, stream=True, extra_headers=headers)
        assert server.model()["waiting"] == 1, "its answer has begun with a comment"
        chunks = list(stream)

    assert "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    server.wait_until_idle()


def test_the_class_that_was_used_is_told_to_who_asked_for_one(server: ServerProcess, secrets: dict[str, str]) -> None:
    def tiers(key: str, asked: str | None) -> set[str | None]:
        """Of one answer, streamed and not."""
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        with openai.OpenAI(base_url=server.base_url, api_key=secrets[key], max_retries=0) as client:
            more: dict[str, Any] = {} if asked is None else {"service_tier": asked}
            whole = client.chat.completions.create(**body, **more)
            stream = client.chat.completions.create(**body, **more, stream=True)
            return {whole.service_tier, *(chunk.service_tier for chunk in stream)}

    assert tiers("ann", None) == {None}
    assert tiers("ann", "flex") == {"flex"}
    assert tiers("ann", "priority") == {"default"}, "it may not have it"
    assert tiers("bob", "priority") == {"priority"}
    assert tiers("bob", "auto") == {"priority"}, "its key's own"


def test_a_key_is_told_of_its_limits_and_of_no_others(server: ServerProcess, secrets: dict[str, str]) -> None:
    def ask(key: str, **fields: Any) -> httpx.Response:
        body = {"model": "m", "prompt": "xxxxx", "max_tokens": 3} | fields
        return httpx.post(f"{server.base_url}/completions", json=body, headers=_headers(secrets, key), timeout=30)

    def told(response: httpx.Response) -> dict[str, str]:
        names = [name for name in response.headers if name.startswith("x-ratelimit-")]
        return {name.removeprefix("x-ratelimit-"): response.headers[name] for name in names}

    assert told(ask("ann")) == {}
    before = told(ask("cat"))
    assert (before["limit-requests"], before["remaining-requests"], before["reset-requests"]) == ("2", "2", "0s")
    assert before["limit-tokens"] == "6000"
    assert 5900 < int(before["remaining-tokens"]) <= 5992, "five tokens of the prompt and three of the answer are used"
    assert before["reset-tokens"].endswith("ms")

    with _stream(server, _headers(secrets, "cat")) as running:
        assert told(running)["remaining-requests"] == "1"
        with _stream(server, _headers(secrets, "cat", tell="1")) as waiting:
            assert told(waiting)["remaining-requests"] == "0"
            refused = ask("cat")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert told(refused)["remaining-requests"] == "0"
    assert told(refused)["reset-requests"] != "0s"
    server.wait_until_idle()
