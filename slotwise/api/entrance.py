"""The way in for every API: a body is read and parsed, and its answer told in that API's words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from slotwise.api import fields, waits
from slotwise.api.asked import Asker, ParsedRequest
from slotwise.api.body import ClientLeft, read_json_body
from slotwise.api.metrics import Metrics
from slotwise.api.seam import Generation
from slotwise.api.streaming import PING_INTERVAL_S, GenerationResponse, Telling
from slotwise.api.suitable import check_suitable
from slotwise.api.usualfields import MAX_USER_LENGTH
from slotwise.errors import ModelNotFound, SlotwiseError
from slotwise.memory.facts import Kind, ModelFacts

#: From a body, and who sent it, to what is to be generated.
Parse = Callable[[bytes, Asker], ParsedRequest]
P = TypeVar("P", bound=ParsedRequest)


class _OfAModel(Protocol):
    @property
    def model(self) -> str: ...


Asked = TypeVar("Asked", bound=_OfAModel)


@dataclass(frozen=True, slots=True)
class Entrance:
    """What all routes that generate have in common."""

    service: Generation
    metrics: Metrics
    #: Of each model that is served, by name.
    catalogue: Mapping[str, ModelFacts]
    max_body_bytes: int
    #: A header that names the end user behind a key; "" = none does.
    user_header: str = ""
    clock: Callable[[], float] = time.monotonic

    async def generate(self, request: Request, parse: Parse, telling: Telling) -> ASGIApp:
        """The answer to a request. Raises SlotwiseError: it is refused as it is."""
        parsed = await self.parsed(request, parse)
        return silence if parsed is None else self.answer(request, parsed, telling)

    async def parsed(
        self, request: Request, parse: Callable[[bytes, Asker], P], kind: Kind | None = "text"
    ) -> P | None:
        """What a request wants of a model of this kind (None: of any); None: its client has left. Raises SlotwiseError,
        and has counted it."""
        try:
            with self.counted():
                waits.told_every(request.headers)
                return await self.read(request, parse, kind)
        except ClientLeft:
            return None

    def answer(self, request: Request, parsed: ParsedRequest, telling: Telling) -> ASGIApp:
        """The answer to what `parsed` gave."""
        interval = waits.told_every(request.headers) or PING_INTERVAL_S
        return GenerationResponse(
            parsed, telling, self.service, self.metrics, clock=self.clock, ping_interval_s=interval
        )

    async def read(self, request: Request, parse: Callable[[bytes, Asker], Asked], kind: Kind | None) -> Asked:
        """What a body asks of a model of this kind; None: of any. Raises SlotwiseError, or ClientLeft."""
        if int_header(request, "x-stainless-retry-count"):
            self.metrics.retried.inc()
        asked = parse(await self.body(request), self.asker(request))
        facts = self.catalogue.get(asked.model)
        if facts is not None and kind is not None:
            check_suitable(facts, kind)
        return asked

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What is refused in here is counted."""
        try:
            yield
        except SlotwiseError as error:
            self.count_refusal(error.code)
            raise

    async def body(self, request: Request) -> bytes:
        """Raises RequestTooLarge, or ClientLeft."""
        return await read_json_body(request.headers, request.receive, self.max_body_bytes)

    def asker(self, request: Request) -> Asker:
        headers = request.headers
        return Asker(
            request.scope["slotwise.key"],
            headers.get(self.user_header, "")[:MAX_USER_LENGTH] if self.user_header else "",
            waits.asked_for(headers),
            waits.patience(headers),
            request.scope["slotwise.request_id"],
            request.scope["slotwise.admin"],
        )

    def facts(self, model: str, *, param: str = "model") -> ModelFacts:
        """Raises ModelNotFound."""
        if model in self.catalogue:
            return self.catalogue[model]
        raise ModelNotFound(f"The model '{model[:100]}' does not exist.", param=param)

    def named(self, data: Mapping[str, Any]) -> str:
        """The model that a body names; it need not where there is only one. Raises InvalidRequest."""
        named = fields.string(data, "model", max_length=512)
        if named:
            return named
        names = [served.status.model for served in self.service.status()]
        if len(names) != 1:
            raise fields.invalid("model", named, f"one of {', '.join(names)}")
        return names[0]

    def count_refusal(self, code: str) -> None:
        self.metrics.rejected.labels(code).inc()


def int_header(request: Request, name: str) -> int:
    """A header that counts something; 0 where it is absent or no number."""
    value = request.headers.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 10 else 0


async def silence(scope: Scope, receive: Receive, send: Send) -> None:
    """The client is gone: there is nobody to answer."""
