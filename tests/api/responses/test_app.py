"""The routes of responses over a service that says what the test tells it: answers, what is kept, whose it is."""

from typing import Any

import anyio
import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList
from pydantic import TypeAdapter
from starlette.types import ASGIApp

from slotwise.api.app import create_app
from slotwise.errors import ContextLengthExceeded, WorkerFailed
from slotwise.keys.keyring import Keyring
from slotwise.request import ChatMessage, ChatPrompt, Examined, FinishReason, TokenChunk
from tests.api.events import events_of
from tests.api.fakes import Client, FakeGeneration, answering

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "m", "input": "hi"}
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


async def _get(app: ASGIApp, path: str, method: str = "GET", **headers: str) -> Client:
    return await Client(app, path, b"", method=method, headers=headers).run()


async def test_an_answer_is_one_of_the_sdks_responses() -> None:
    client = await Client(create_app(answering()), PATH, BODY).run()
    response = Response.model_validate(client.json)

    assert (client.status, response.output_text, response.status) == (200, "Hello", "completed")


async def test_each_event_of_a_stream_is_one_of_the_sdks() -> None:
    client = await Client(create_app(answering()), PATH, BODY | {"stream": True}).run()
    events = events_of(client.text)
    for event in events:
        EVENT.validate_python(event)

    assert client.complete
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"


async def test_a_conversation_goes_on_from_a_stored_response() -> None:
    service = answering()
    app = create_app(service)
    first = (await Client(app, PATH, BODY | {"instructions": "brief"}).run()).json
    second = (await Client(app, PATH, BODY | {"previous_response_id": first["id"], "stream": True}).run()).text
    last = events_of(second)[-1]["response"]["id"]
    await Client(app, PATH, BODY | {"previous_response_id": last, "store": False}).run()
    prompt = service.leases[-1].request.prompt

    assert isinstance(prompt, ChatPrompt)
    hi, hello = ChatMessage("user", "hi"), ChatMessage("assistant", "Hello")
    assert prompt.messages == (hi, hello, hi, hello, hi)


async def test_a_response_is_retrieved_listed_and_deleted() -> None:
    app = create_app(answering())
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    made = (await Client(app, PATH, BODY | {"input": items}).run()).json
    path = f"{PATH}/{made['id']}"

    assert (await _get(app, path)).json == made
    listed: Any = ResponseItemList.model_validate((await _get(app, f"{path}/input_items")).json)
    assert [item.content[0].text for item in listed.data] == list("43210")
    deleted = await _get(app, path, "DELETE")
    assert deleted.json == {"id": made["id"], "object": "response", "deleted": True}
    for method, gone in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
        assert (await _get(app, gone, method)).status == 404


async def test_tokens_are_counted() -> None:
    service = FakeGeneration()
    client = Client(create_app(service), f"{PATH}/input_tokens", BODY)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        counted = TokenChunk(text="", tokens=0, finish_reason=FinishReason.STOP, examined=Examined(7))
        (await service.asked())._add(counted)

    assert client.json == {"object": "response.input_tokens", "input_tokens": 7}


async def test_a_prompt_that_is_too_long_is_the_input() -> None:
    service = FakeGeneration()
    service.refusal = ContextLengthExceeded(900, 512)
    client = await Client(create_app(service), PATH, BODY).run()

    assert (client.status, client.error["param"], client.error["code"]) == (400, "input", "context_length_exceeded")


async def test_what_is_not_to_be_stored_is_not() -> None:
    app = create_app(answering())
    made = (await Client(app, PATH, BODY | {"store": False}).run()).json

    client = await _get(app, f"{PATH}/{made['id']}")
    assert (client.status, client.error["code"]) == (404, "response_not_found")


async def test_nobody_sees_what_another_key_stored() -> None:
    app = create_app(answering(), keyring=Keyring(["secret-one", "secret-two"]))
    one, two = {"authorization": "Bearer secret-one"}, {"authorization": "Bearer secret-two"}
    made = (await Client(app, PATH, BODY, headers=one).run()).json["id"]

    assert (await _get(app, f"{PATH}/{made}", **one)).status == 200
    for method, path in (
        ("GET", f"{PATH}/{made}"),
        ("DELETE", f"{PATH}/{made}"),
        ("GET", f"{PATH}/{made}/input_items"),
    ):
        assert (await _get(app, path, method, **two)).status == 404
    going_on = await Client(app, PATH, BODY | {"previous_response_id": made}, headers=two).run()
    assert (going_on.status, going_on.error["code"]) == (400, "previous_response_not_found")


async def test_a_failure_in_the_middle_is_told_and_not_kept() -> None:
    service = FakeGeneration()
    app = create_app(service)
    client = Client(app, PATH, BODY | {"stream": True})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        (await service.asked()).say("Hel").fail(WorkerFailed("it died"))
    last = events_of(client.text)[-1]

    assert (last["type"], last["response"]["error"]["message"]) == ("response.failed", "it died")
    assert (await _get(app, f"{PATH}/{last['response']['id']}")).status == 404


@pytest.mark.parametrize(("stream", "status"), [("false", 200), ("true", 400), ("yes", 400)])
async def test_a_stored_response_is_told_whole(stream: str, status: int) -> None:
    app = create_app(answering())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as http:
        made = (await http.post(PATH, json=BODY)).json()["id"]
        response = await http.get(f"{PATH}/{made}?stream={stream}")

    assert response.status_code == status
    assert status == 200 or response.json()["error"]["param"] == "stream"


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("limit=2", 200, None),
        ("limit=0", 400, "limit"),
        ("limit=101", 400, "limit"),
        ("limit=x", 400, "limit"),
        ("order=asc", 200, None),
        ("order=random", 400, "order"),
        ("after=nope", 400, "after"),
    ],
)
async def test_pages_of_what_was_asked(query: str, status: int, param: str | None) -> None:
    app = create_app(answering())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as http:
        items = [{"role": "user", "content": str(number)} for number in range(5)]
        made = (await http.post(PATH, json=BODY | {"input": items})).json()["id"]
        response = await http.get(f"{PATH}/{made}/input_items?{query}")

    assert response.status_code == status
    if param is not None:
        assert response.json()["error"]["param"] == param


async def test_pages_follow_each_other() -> None:
    app = create_app(answering())
    seen, after = [], ""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as http:
        items = [{"role": "user", "content": str(number)} for number in range(5)]
        made = (await http.post(PATH, json=BODY | {"input": items})).json()["id"]
        while True:
            page = (await http.get(f"{PATH}/{made}/input_items?order=asc&limit=2{after}")).json()
            seen += [item["content"][0]["text"] for item in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"

    assert seen == list("01234")
