"""What a prompt becomes, without an answer: llama-server's /tokenize, /detokenize and /apply-template, and counting for
whichever API tells it.

Such a request is one of the scheduler's, since the tokenizer is the worker's: its model is loaded for it, and leaving
cancels it. It takes no slot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from slotwise.api import fields
from slotwise.api.asked import Asker, ParsedRequest, new_id
from slotwise.api.body import ClientLeft
from slotwise.api.entrance import Entrance, Parse, silence
from slotwise.api.prompts import MAX_PROMPT_TOKENS
from slotwise.api.replies import json_reply
from slotwise.api.watched import unless_left
from slotwise.errors import InvalidRequest, SlotwiseError
from slotwise.request import Examine, Examined, GenerationRequest, Prompt, TextPrompt, TokenPrompt

_COUNT = Examine()


async def count(entrance: Entrance, request: Request, model: str, prompt: Prompt, wanted: Examine = _COUNT) -> Examined:
    """What a prompt becomes for a model. `request`: who asks; its body has been read.

    Raises:
        SlotwiseError: it is refused.
        ClientLeft: nobody waits for it any more.
    """
    asked = _examination(model, prompt, wanted, entrance.asker(request))
    told: Examined | None = None

    async def examine() -> None:
        nonlocal told
        async with entrance.service.lease(asked) as lease:
            told = (await lease.next_chunk()).examined

    if not await unless_left(request.receive, examine):
        raise ClientLeft
    assert told is not None
    return told


def _examination(model: str, prompt: Prompt, wanted: Examine, asker: Asker) -> GenerationRequest:
    return GenerationRequest(
        request_id=f"{new_id('count')}-0",
        model=model,
        prompt=prompt,
        examine=wanted,
        stream=False,
        key=asker.key,
        user=asker.user,
        max_wait_s=asker.max_wait_s,
        patience_s=asker.patience_s,
        origin=asker.request_id,
    )


class Examination:
    """The endpoints. A model need not be named where there is only one."""

    def __init__(self, entrance: Entrance, parse_chat: Parse) -> None:
        """`parse_chat`: as a conversation is read that is to be answered: what is told is what would be sent."""
        self._entrance = entrance
        self._parse_chat = parse_chat

    async def tokenize(self, request: Request) -> ASGIApp:
        """{"content", "add_special", "parse_special", "with_pieces"} -> {"tokens": [id, …] or [{"id", "piece"}, …]}."""
        return await self._answer(request, self._tokenize)

    async def detokenize(self, request: Request) -> ASGIApp:
        """{"tokens": [id, …]} -> {"content": text}."""
        return await self._answer(request, self._detokenize)

    async def apply_template(self, request: Request) -> ASGIApp:
        """The body of a chat completion -> {"prompt": text}."""
        return await self._answer(request, self._apply_template)

    async def input_tokens(self, request: Request) -> ASGIApp:
        """The body of a chat completion -> {"input_tokens": count}."""
        return await self._answer(request, self._input_tokens)

    async def _answer(self, request: Request, tell: Callable[[Request, dict[str, Any]], Awaitable[object]]) -> ASGIApp:
        try:
            data = fields.parse_object(await self._entrance.body(request))
            reply = json_reply(await tell(request, data | {"model": self._entrance.named(data)}))
        except ClientLeft:
            return silence
        except SlotwiseError as error:
            self._entrance.count_refusal(error.code)
            raise

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await reply(send)

        return answer

    async def _tokenize(self, request: Request, data: dict[str, Any]) -> object:
        prompt = TextPrompt(
            fields.prompt_text(data.get("content"), "content"),
            add_special=fields.boolean(data, "add_special"),
            parse_special=fields.boolean(data, "parse_special", default=True),
        )
        pieces = fields.boolean(data, "with_pieces")
        found = await count(self._entrance, request, data["model"], prompt, Examine(tokens=True, pieces=pieces))
        if not pieces:
            return {"tokens": found.tokens}
        named = zip(found.tokens, found.pieces, strict=True)
        return {"tokens": [{"id": token, "piece": _piece(piece)} for token, piece in named]}

    async def _detokenize(self, request: Request, data: dict[str, Any]) -> object:
        prompt = TokenPrompt(fields.token_ids(data.get("tokens"), "tokens", 0, MAX_PROMPT_TOKENS))
        try:
            found = await count(self._entrance, request, data["model"], prompt, Examine(text=True))
        except InvalidRequest as error:  # a worker knows of prompts only
            name = (error.param or "").replace("prompt", "tokens", 1) or None
            raise InvalidRequest(error.message, param=name, code=error.code) from error
        return {"content": found.text}

    async def _apply_template(self, request: Request, data: dict[str, Any]) -> object:
        chat = self._chat(request, data).choices[0]
        found = await count(self._entrance, request, chat.model, chat.prompt, Examine(text=True))
        return {"prompt": found.text}

    async def _input_tokens(self, request: Request, data: dict[str, Any]) -> object:
        chat = self._chat(request, data).choices[0]
        found = await count(self._entrance, request, chat.model, chat.prompt)
        return {"input_tokens": found.prompt_tokens}

    def _chat(self, request: Request, data: dict[str, Any]) -> ParsedRequest:
        return self._parse_chat(msgspec.json.encode(data), self._entrance.asker(request))


def _piece(piece: bytes) -> object:
    """Text, or where it is not whole characters, a list of its bytes."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
