"""The server's own advice: told once, in the log."""

import logging
from collections.abc import Callable
from functools import partial

import anyio
import pytest

from slotwise.advisor import advise
from slotwise.api.metrics import Metrics
from slotwise.scheduler.account import Bound
from slotwise.scheduler.dispatcher import ServedModel
from tests.advice.looks import Look


class _Server:
    """Its text, and who waits until it was asked for it often enough."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.asked = 0
        self.news = anyio.Event()
        self._metrics = Metrics(self._served, memory=lambda: look.memory)

    def _served(self) -> list[ServedModel]:
        look = self.look
        return [ServedModel(look.status, look.counters, None, look.account, look.load)]

    def scrape(self) -> bytes:
        self.asked += 1
        self.news.set()
        self.news = anyio.Event()
        return self._metrics.render_service()

    async def until(self, times: int) -> None:
        while self.asked < times:
            await self.news.wait()


async def _logged(server: _Server, caplog: pytest.LogCaptureFixture, *between: Callable[[], None]) -> list[str]:
    """What is logged while the server is looked at, with these changes from one look to the next."""
    caplog.set_level(logging.INFO, "slotwise.advisor")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(advise, server.scrape, interval_s=0.01))
            for change in between:
                await server.until(server.asked + 1)
                change()
            # One look more than the last change: the look that has seen it has been logged by then.
            await server.until(server.asked + 3)
            tasks.cancel_scope.cancel()
    return [record.message for record in caplog.records]


async def test_a_finding_is_logged_once_with_the_flag_to_change(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await _logged(_Server(Look().bound(cells=600)), caplog, lambda: None)

    assert line.startswith("m: for 600 s of 3600 s a request waited for KV cells while a slot was free")
    assert "Change: --kv-cells 6144" in line
    assert caplog.records[0].levelno == logging.WARNING


async def test_each_look_is_at_the_time_since_the_last(caplog: pytest.LogCaptureFixture) -> None:
    look = Look()
    look.account.bound[Bound.NOTHING] = 90_000.0

    def wait() -> None:
        look.account.bound[Bound.SLOTS] += 60.0
        look.account.waiting_s += 120.0
        look.with_status(admitted=200)

    server = _Server(look)
    (line,) = await _logged(server, caplog, wait)

    assert "for 60 s of 60 s all 4 slots were busy" in line


async def test_what_is_a_guess_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    look = Look().seen(most_busy=1)
    look.account.bound[Bound.NOTHING] = 600.0
    await _logged(_Server(look), caplog, lambda: None)

    assert [record.levelno for record in caplog.records] == [logging.INFO]


async def test_a_server_that_can_not_judge_itself_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    server = _Server(Look().bound(cells=600))
    server.scrape = _broken_once(server.scrape)  # type: ignore[method-assign]
    lines = await _logged(server, caplog, lambda: None)

    assert lines[0] == "the server can not judge itself by its metrics"
    assert "a request waited for KV cells" in lines[1]


def _broken_once(scrape: Callable[[], bytes]) -> Callable[[], bytes]:
    texts = [b"no metrics at all"]

    def broken() -> bytes:
        text = scrape()
        return texts.pop() if texts else text

    return broken
