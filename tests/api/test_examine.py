"""What a prompt becomes: llama-server's endpoints, and counting."""

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from slotwise.api.app import create_app
from slotwise.errors import InvalidRequest, ModelNotFound, ServerOverloaded, SlotwiseError
from slotwise.request import (
    ChatMessage,
    ChatPrompt,
    Examine,
    Examined,
    FinishReason,
    Prompt,
    TextPrompt,
    TokenChunk,
    TokenPrompt,
    Usage,
)
from tests.api.fakes import Client, FakeGeneration, FakeLease, served
from tests.server_process import run_server

MESSAGES = [{"role": "user", "content": "hi"}]
FOUND = Examined(2, (5, 6), (b"h", b"\xc3"), "text")


def _told(lease: FakeLease) -> FakeLease:
    return lease._add(TokenChunk(text="", tokens=0, finish_reason=FinishReason.STOP, usage=Usage(2, 0), examined=FOUND))


async def _ask(
    path: str, body: object, service: FakeGeneration | None = None, refusal: SlotwiseError | None = None
) -> tuple[Client, FakeGeneration]:
    service = service or FakeGeneration()
    client = Client(create_app(service), path, body)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        await anyio.wait_all_tasks_blocked()
        if service.leases:
            _told(service.leases[0]) if refusal is None else service.leases[0].fail(refusal)
    assert all(lease.left for lease in service.leases)
    return client, service


@pytest.mark.parametrize(
    ("path", "body", "prompt", "wanted", "answer"),
    [
        ("/tokenize", {"content": "hi"}, TextPrompt("hi", False, True), Examine(tokens=True), {"tokens": [5, 6]}),
        (
            "/tokenize",
            {"content": "", "add_special": True, "parse_special": False, "with_pieces": True},
            TextPrompt("", True, False),
            Examine(tokens=True, pieces=True),
            {"tokens": [{"id": 5, "piece": "h"}, {"id": 6, "piece": [195]}]},
        ),
        ("/detokenize", {"tokens": [1, 2]}, TokenPrompt((1, 2)), Examine(text=True), {"content": "text"}),
        (
            "/apply-template",
            {"messages": MESSAGES},
            ChatPrompt((ChatMessage("user", "hi"),)),
            Examine(text=True),
            {"prompt": "text"},
        ),
        (
            "/v1/chat/completions/input_tokens",
            {"messages": MESSAGES},
            ChatPrompt((ChatMessage("user", "hi"),)),
            Examine(),
            {"input_tokens": 2},
        ),
    ],
)
async def test_what_is_asked_and_told(
    path: str, body: dict[str, Any], prompt: Prompt, wanted: Examine, answer: object
) -> None:
    """A model need not be named where there is one."""
    client, service = await _ask(path, body)

    (lease,) = service.leases
    assert (lease.request.prompt, lease.request.examine, lease.request.model) == (prompt, wanted, "m")
    assert (client.status, client.json) == (200, answer)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 3}, "content"),
        ("/tokenize", {"content": "x" * 100_001}, "content"),
        ("/tokenize", {"content": "x", "with_pieces": "yes"}, "with_pieces"),
        ("/tokenize", {"content": "x", "model": 7}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ],
)
async def test_a_bad_body_is_refused_by_its_field(path: str, body: dict[str, Any], param: str) -> None:
    client, service = await _ask(path, body)

    assert (client.status, client.error["param"]) == (400, param)
    assert service.leases == []


@pytest.mark.parametrize(
    ("refusal", "status", "param"),
    [
        (InvalidRequest("token id 9 is not in the vocabulary (0 to 8)", param="prompt[1]"), 400, "tokens[1]"),
        (ModelNotFound("no", param="model"), 404, "model"),
        (ServerOverloaded("busy", retry_after_s=3), 429, None),
    ],
)
async def test_refusals_of_the_server_keep_their_status(refusal: SlotwiseError, status: int, param: str | None) -> None:
    client, _ = await _ask("/detokenize", {"tokens": [1, 2]}, refusal=refusal)

    assert (client.status, client.error["param"]) == (status, param)


async def test_a_model_must_be_named_where_there_are_several() -> None:
    body = {"content": "x"}
    client, _ = await _ask("/tokenize", body, FakeGeneration(served("a"), served("b")))
    assert (client.status, client.error["param"]) == (400, "model")
    assert "a, b" in client.error["message"]

    client, service = await _ask("/tokenize", body | {"model": "b"}, FakeGeneration(served("a"), served("b")))
    assert (client.status, service.leases[0].request.model) == (200, "b")


async def test_whoever_leaves_is_asked_for_no_more() -> None:
    service = FakeGeneration()
    client = Client(create_app(service), "/tokenize", {"content": "x"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        lease = await service.asked()
        await anyio.wait_all_tasks_blocked()
        client.leave()

    assert lease.left
    assert not client.started


@pytest.mark.model
def test_a_real_server_counts_what_it_would_compute(tmp_path: Path) -> None:
    with (
        run_server(tmp_path / "log", "--context", "256", "--num-parallel", "1") as server,
        httpx.Client(base_url=server.root, timeout=60) as http,
    ):

        def ask(path: str, body: object) -> Any:
            response = http.post(path, json=body)
            assert response.status_code == 200, response.text
            return response.json()

        text = "Grüße, 🦙! <|im_end|>"
        model = ask("/tokenize", {"content": text})
        plain = ask("/tokenize", {"content": text, "parse_special": False, "with_pieces": True})["tokens"]
        assert len(model["tokens"]) < len(plain)
        assert ask("/detokenize", model) == {"content": text}
        assert ask("/detokenize", {"tokens": [one["id"] for one in plain]}) == {"content": text}
        assert ask("/tokenize", {"content": ""}) == {"tokens": []}

        chat = {"messages": [{"role": "user", "content": "What <|im_end|> is this?"}]}
        prompt = ask("/apply-template", chat)["prompt"]
        assert "What <|im_end|> is this?<|im_end|>" in prompt
        name = server.model()["model"]
        answer = ask("/v1/chat/completions", chat | {"model": name, "max_tokens": 4})
        counted = ask("/v1/chat/completions/input_tokens", chat)
        assert counted == {"input_tokens": answer["usage"]["prompt_tokens"]}
        # However long it is.
        long = {"messages": [{"role": "user", "content": "word " * 2000}]}
        assert ask("/v1/chat/completions/input_tokens", long)["input_tokens"] > 2000
        response = http.post("/detokenize", json={"tokens": [1, 10**8]})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens[1]")
        assert server.wait_until_idle()["busy_slots"] == 0
