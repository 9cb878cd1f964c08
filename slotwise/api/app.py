"""The HTTP application: routes, and how their errors look."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slotwise import __version__
from slotwise.api import queueing
from slotwise.api.access import UnknownUrl
from slotwise.api.anthropic.routes import routes as anthropic_routes
from slotwise.api.catalogue import routes as catalogue_routes
from slotwise.api.documents.openai import RERANK_PATHS
from slotwise.api.documents.whole import document
from slotwise.api.edge import Edge
from slotwise.api.embeddings import embeddings, rerank
from slotwise.api.entrance import Entrance
from slotwise.api.examine import Examination
from slotwise.api.infill import routes as infill_routes
from slotwise.api.metrics import Metrics
from slotwise.api.ollama import routes as ollama
from slotwise.api.openai import tell_chat, tell_completion
from slotwise.api.replies import as_response, error_reply, internal_error, json_reply, raw_reply
from slotwise.api.responses.routes import routes as responses_routes
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.api.seam import Generation
from slotwise.errors import SlotwiseError
from slotwise.keys.keyring import Keyring
from slotwise.memory.accounts import Amounts, device_name
from slotwise.memory.facts import ModelFacts
from slotwise.origins import Origins
from slotwise.scheduler.dispatcher import ServedModel
from slotwise.scheduler.measured import ServedMemory, measured_on

DEFAULT_MAX_BODY_BYTES = 10 * 1024 * 1024


class MethodNotAllowed(SlotwiseError):
    """Raised for a known path with a method it does not have."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


def create_app(
    service: Generation,
    *,
    keyring: Keyring | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    clock: Callable[[], float] = time.monotonic,
    allowed_hosts: Collection[str] | None = None,
    origins: Origins | None = None,
    user_header: str = "",
    metrics: Metrics | None = None,
    catalogue: Mapping[str, ModelFacts] | None = None,
) -> ASGIApp:
    """The whole HTTP edge of one server. `catalogue`: of each model that is served. `allowed_hosts`: names under which
    programs of this machine may ask it without a key; None = any machine, under any name. `origins`: of web pages that
    may; None = those of this machine.
    `user_header`: names the end user behind a key; "" = none does. `metrics`: where to count, if not in its own."""
    entrance = Entrance(
        service, metrics or Metrics(service.status), catalogue or {}, max_body_bytes, user_header, clock
    )
    routes, examination = Routes(entrance), Examination(entrance, partial(parse_chat, catalogue=entrance.catalogue))
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.completion, methods=["POST"]),
            Route("/v1/chat/completions/input_tokens", examination.input_tokens, methods=["POST"]),
            Route("/tokenize", examination.tokenize, methods=["POST"]),
            Route("/detokenize", examination.detokenize, methods=["POST"]),
            Route("/apply-template", examination.apply_template, methods=["POST"]),
            Route("/v1/embeddings", routes.embeddings, methods=["POST"]),
            *(Route(path, routes.rerank, methods=["POST"]) for path in RERANK_PATHS),
            *anthropic_routes(entrance),
            *responses_routes(entrance),
            *catalogue_routes(entrance),
            *infill_routes(entrance),
            # LM Studio's names of the same.
            Route("/api/v0/chat/completions", routes.chat, methods=["POST"]),
            Route("/api/v0/completions", routes.completion, methods=["POST"]),
            Route("/api/v0/embeddings", routes.embeddings, methods=["POST"]),
            Route("/v1/slotwise/status", routes.status, methods=["GET"]),
            Route("/v1/slotwise/queue", routes.queue, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            Route("/ready", routes.ready, methods=["GET"]),
            Route("/metrics", routes.metrics_text, methods=["GET"]),
            Route("/openapi.json", routes.openapi, methods=["GET"]),
            *ollama.routes(entrance),
        ],
        exception_handlers={HTTPException: _http_exception, SlotwiseError: _refusal, Exception: _fault},
    )
    # An exact path or a 404: a redirect to another spelling would turn a POST into a GET.
    app.router.redirect_slashes = False
    return Edge(app, keyring or Keyring(), allowed_hosts, origins, on_refusal=entrance.count_refusal)


class Routes:
    """The endpoints, over one service."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._service = entrance.service
        self._clock = entrance.clock
        self._started_at = entrance.clock()

    async def chat(self, request: Request) -> ASGIApp:
        parse = partial(parse_chat, catalogue=self._entrance.catalogue)
        return await self._entrance.generate(request, parse, tell_chat)

    async def completion(self, request: Request) -> ASGIApp:
        return await self._entrance.generate(request, parse_completion, tell_completion)

    async def embeddings(self, request: Request) -> ASGIApp:
        return await embeddings(self._entrance, request)

    async def rerank(self, request: Request) -> ASGIApp:
        return await rerank(self._entrance, request)

    async def status(self, request: Request) -> Response:
        models = [_status_object(served) for served in self._service.status()]
        uptime = round(self._clock() - self._started_at, 3)
        state = {"version": __version__, "uptime_s": uptime, "draining": self._service.draining, "models": models}
        return _json(state | {"memory": _memory_object(self._service.memory())})

    async def queue(self, request: Request) -> Response:
        """Of the caller's key alone: what others have in line is none of its business."""
        key, enquiries = request.scope["slotwise.key"], self._service.enquiries
        own = enquiries.requests(key)
        listed = [(one, enquiries.standing(one.request_id)) for one in own[: queueing.MAX_LISTED]]
        standing = [(one, standing) for one, standing in listed if standing is not None]
        return _json(queueing.queue_object(standing, len(own), enquiries.queues(key)))

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        states = {served.status.model: served.status.state for served in self._service.status()}
        usable = not self._service.draining and any(state != "failed" for state in states.values())
        body = {"status": "ready" if usable else "not ready", "draining": self._service.draining, "models": states}
        return _json(body, 200 if usable else 503)

    async def metrics_text(self, request: Request) -> Response:
        content_type = b"text/plain; version=0.0.4; charset=utf-8"
        return as_response(raw_reply(self._entrance.metrics.render(), content_type))

    async def openapi(self, request: Request) -> Response:
        return _json(document())


def _status_object(served: ServedModel) -> dict[str, Any]:
    counters = served.counters
    told = asdict(counters)
    del told["cells"]  # by worker: told are their sums
    return (
        asdict(served.status)
        | told
        | {name: getattr(counters, name) for name in ("cells_used", "cells_retained", "host_bytes")}
        | {"account": asdict(served.account)}
        | {"info": msgspec.to_builtins(counters.info)}
    )


def _memory_object(memory: ServedMemory) -> dict[str, Any]:
    """Bytes. What is not known is null, or not there."""
    status = memory.status
    devices = {
        device_name(device): {
            "budget_bytes": budget,
            "budget_at_start_bytes": status.most.get(device, budget),
            "reserved_bytes": status.reserved.get(device, 0),
            "measured_bytes": measured_on(memory.workers, device),
            # Less may be there than is reserved, since others take memory too.
            "free_bytes": max(budget - status.reserved.get(device, 0), 0),
        }
        for device, budget in sorted(status.budgets.items())
    }
    workers = [
        {
            "model": worker.reservation.model,
            "worker_id": worker.reservation.worker_id,
            "place": worker.reservation.place,
            "reserved_bytes": _by_name(worker.reservation.amounts),
            "measured_bytes": _by_name(worker.measured.now),
            "peak_bytes": _by_name(worker.measured.peak),
        }
        for worker in memory.workers
    ]
    return {"devices": devices, "workers": workers}


def _by_name(amounts: Amounts) -> dict[str, int]:
    return {device_name(device): size for device, size in sorted(amounts.items())}


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"][:100]
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        fault: SlotwiseError = MethodNotAllowed(f"{request.method} is not possible at {path}; use {allow}.")
        return as_response(error_reply(fault, path, [(b"allow", allow.encode())]))
    return as_response(error_reply(UnknownUrl(f"There is nothing at {request.method} {path}."), path))


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, SlotwiseError)
    return as_response(error_reply(error, request.scope["path"], request_id=request.scope["slotwise.request_id"]))


async def _fault(request: Request, error: Exception) -> Response:
    """Our own mistake: the client gets no trace of it; `Edge` logs it with the request's id."""
    return as_response(error_reply(internal_error(request.scope.get("slotwise.request_id", "")), request.scope["path"]))


def _json(body: object, status: int = 200) -> Response:
    return as_response(json_reply(body, status))
