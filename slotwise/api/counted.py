"""Counting the tokens of a body that is not answered, whichever API it is of."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp

from slotwise.api.body import ClientLeft
from slotwise.api.entrance import Entrance, silence
from slotwise.api.examine import count
from slotwise.api.replies import as_response, json_reply
from slotwise.errors import SlotwiseError
from slotwise.request import Prompt


async def answer(
    entrance: Entrance,
    request: Request,
    parse: Callable[[bytes], tuple[str, Prompt]],
    tell: Callable[[int], object],
) -> ASGIApp:
    """`parse`: from a body to a model, and what it would be asked. `tell`: the reply, by the number of tokens. Raises
    SlotwiseError: it is refused as it is."""
    try:
        model, prompt = parse(await entrance.body(request))
        counted = await count(entrance, request, model, prompt)
    except ClientLeft:
        return silence
    except SlotwiseError as error:
        entrance.count_refusal(error.code)
        raise
    return as_response(json_reply(tell(counted.prompt_tokens)))
