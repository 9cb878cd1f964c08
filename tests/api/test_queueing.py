"""What those who wait are told: in their stream, and when they ask."""

import anyio
import pytest

from slotwise.api.app import create_app
from slotwise.api.asked import Asker
from slotwise.api.queueing import MAX_LISTED, comment
from slotwise.api.schema import parse_completion
from slotwise.scheduler.outlook import ModelQueue, Standing
from tests.api.fakes import Client, FakeGeneration

WAITING = Standing("m", "waiting", 1.0, 3, 11.2)
PAUSED = Standing("m", "paused", 1.0, 1, 0.5)
RUNNING = Standing("m", "running", 1.0)
BODY = b'{"model": "m", "prompt": "hi", "n": 2}'


@pytest.mark.parametrize(
    ("standings", "text"),
    [
        ([], ": ping"),
        ([None], ": ping"),
        ([RUNNING], ": ping"),
        ([WAITING], ": waiting position=3 predicted_start_s=12"),
        ([Standing("m", "waiting", 0.0, 3)], ": waiting position=3"),
        ([Standing("m", "waiting", 0.0, 1, 0.0)], ": waiting position=1 predicted_start_s=0"),
        ([PAUSED], ": paused"),
        ([WAITING, PAUSED], ": paused"),
        ([WAITING, PAUSED, RUNNING], ": ping"),
        ([None, Standing("m", "waiting", 0.0, 9, 90.0), WAITING], ": waiting position=3 predicted_start_s=12"),
    ],
)
def test_a_comment_says_what_the_stream_waits_for(standings: list[Standing | None], text: str) -> None:
    assert comment(standings) == text.encode() + b"\n\n"


async def _queue(service: FakeGeneration, **headers: str) -> Client:
    return await Client(create_app(service), "/v1/slotwise/queue", b"", method="GET", headers=headers).run()


async def test_a_request_is_told_by_the_id_of_its_http_request_and_its_choice() -> None:
    service = FakeGeneration()
    service.enquiries.standings = {0: RUNNING, 1: WAITING}
    service.enquiries.lines = [ModelQueue("m", "ready", 1, 1, 4, 2.34567)]
    for request in parse_completion(BODY, Asker(request_id="req-7")).choices:
        service.lease(request)
    told = (await _queue(service)).json

    assert [(one["request_id"], one["choice"], one["state"]) for one in told["requests"]] == [
        ("req-7", 0, "running"),
        ("req-7", 1, "waiting"),
    ]
    assert told["requests"][0]["position"] is None
    assert told["requests"][1]["position"] == 3
    assert told["requests_total"] == 2
    assert told["models"] == [
        {"model": "m", "state": "ready", "running": 1, "waiting": 1, "slots": 4, "predicted_wait_s": 2.346}
    ]


async def test_one_key_is_told_nothing_of_anothers() -> None:
    """No keys are asked for here: those who send one are told apart, and those who send none see their own, too."""
    service = FakeGeneration()
    service.enquiries.standings = {0: WAITING}
    app = create_app(service)
    keys = {"ann": {"x-api-key": "ann"}, "bob": {"x-api-key": "bob"}, "none": dict[str, str]()}
    async with anyio.create_task_group() as tasks:
        clients = []
        for name, headers in keys.items():
            mine = headers | {"x-request-id": f"of-{name}"}
            client = Client(app, "/v1/completions", {"model": "m", "prompt": "x"}, headers=mine)
            clients.append(client)
            tasks.start_soon(client.run)
        await service.asked(len(keys))
        for name, headers in keys.items():
            told = (await Client(app, "/v1/slotwise/queue", b"", method="GET", headers=headers).run()).text
            assert {other for other in keys if f"of-{other}" in told} == {name}
        for client in clients:
            client.leave()


async def test_a_long_list_is_cut_and_counted() -> None:
    service = FakeGeneration()
    service.enquiries.standings = {0: WAITING}
    for _ in range(MAX_LISTED + 5):
        service.lease(parse_completion(b'{"model": "m", "prompt": "hi"}').choices[0])
    told = (await _queue(service)).json

    assert (len(told["requests"]), told["requests_total"]) == (MAX_LISTED, MAX_LISTED + 5)


@pytest.mark.parametrize("said", ["soon", "0", "0.9", "61", "-1", "nan", ""])
async def test_an_interval_that_is_none_is_refused_in_words(said: str) -> None:
    service = FakeGeneration()
    body = {"model": "m", "prompt": "x"}
    client = await Client(create_app(service), "/v1/completions", body, headers={"X-Slotwise-Queue": said}).run()

    assert client.status == 400
    assert client.error["param"] == "x-slotwise-queue"
    assert "from 1 to 60" in client.error["message"]
    assert said in client.error["message"]
    assert service.leases == []
