"""docs/compatibility.md has every route once, and says which of them are refused."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from slotwise.api.app import create_app
from slotwise.memory.facts import ModelFacts
from tests.api.compatibility.endpoint import DOCUMENT
from tests.api.fakes import Client, answering

STATES = ("supported", "refused")


def _rows() -> Iterator[tuple[str, str, str]]:
    """(method, path, state) of the document."""
    table = DOCUMENT.read_text().split("## Endpoints\n")[1].split("\n## ")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 5 and cells[1].startswith("`"):
            methods, paths, _, state, _ = cells
            for path in re.findall(r"`([^`]+)`", paths):
                yield from ((method, path, state) for method in methods.split(", "))


ROWS = list(_rows())


def _app() -> Any:
    return create_app(answering(), catalogue={"m": ModelFacts("m")})


def test_every_route_is_in_the_document_once() -> None:
    routes = []
    for route in _app()._app.routes:
        # Whatever may be read answers to HEAD too.
        methods = route.methods - {"HEAD"} if "GET" in route.methods else route.methods
        routes += [(method, route.path.replace(":path}", "}")) for method in methods]

    assert sorted((method, path) for method, path, _ in ROWS) == sorted(routes)


@pytest.mark.parametrize(("method", "path", "state"), ROWS)
async def test_an_endpoint_is_there_or_refused_in_words(method: str, path: str, state: str) -> None:
    assert state in STATES

    client = await Client(_app(), re.sub(r"{.*?}", "m", path), {"model": "m"}, method=method).run()

    assert (client.status == 501) == (state == "refused")
    assert client.status not in (405, 500)
    if method != "HEAD":
        assert "unknown_url" not in client.text
