"""What a response says, item by item, and the events that tell of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from slotwise.api.openai import chat_logprobs
from slotwise.api.pieces import CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.request import TokenLogprob

Event = dict[str, Any]


class Output:
    """The items of one response, in the order in which they begin; only the last of them is open."""

    def __init__(self, suffix: str) -> None:
        """`suffix`: makes the items' ids."""
        self._suffix = suffix
        #: Those that are complete.
        self.items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        #: Of tokens whose text is held back.
        self._waiting: list[dict[str, Any]] = []

    def take(self, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob] = ()) -> list[Event]:
        """`logprobs`: of the tokens that said this; those of text are told with it."""
        if logprobs:
            self._waiting += chat_logprobs(logprobs)["content"]
        if pieces and not any(isinstance(piece, Text) for piece in pieces):
            self._waiting = []
        return [event for piece in pieces for event in self._piece(piece)]

    def finish(self, status: str) -> list[Event]:
        """The answer has ended: `status` of what is open, "completed" or "incomplete"."""
        return list(self._close(status))

    def _piece(self, piece: Piece) -> Iterator[Event]:
        match piece:
            case Text(text):
                yield from self._opened("message", "msg", {"role": "assistant", "content": []})
                told, self._waiting = self._waiting, []
                self._logprobs += told
                self._texts.append(text)
                yield self._of_part("response.output_text.delta", delta=text, logprobs=told)
            case Reasoning(text):
                yield from self._opened("reasoning", "rs", {"summary": [], "content": []})
                self._texts.append(text)
                yield self._of_part("response.reasoning_text.delta", delta=text)
            case CallBegins(_, call_id, name):
                yield from self._close("completed")
                yield from self._opened("function_call", "fc", {"call_id": call_id, "name": name, "arguments": ""})
            case CallArguments(_, text):
                self._texts.append(text)
                yield self._of_item("response.function_call_arguments.delta", delta=text)

    def _opened(self, kind: str, prefix: str, members: dict[str, Any]) -> Iterator[Event]:
        """An item of this kind is open: as it was, or from now on."""
        if self._open is not None and self._open["type"] == kind:
            return
        yield from self._close("completed")
        item_id = f"{prefix}_{self._suffix}o{len(self.items)}"
        self._open = {"id": item_id, "type": kind, "status": "in_progress"} | members
        self._texts, self._logprobs = [], []
        yield {"type": "response.output_item.added", "output_index": len(self.items), "item": dict(self._open)}
        if kind != "function_call":
            yield self._of_part("response.content_part.added", part=_part(kind, "", []))

    def _close(self, status: str) -> Iterator[Event]:
        if self._open is None:
            return
        kind, text = self._open["type"], "".join(self._texts)
        if kind == "function_call":
            self._open["arguments"] = text
            yield self._of_item("response.function_call_arguments.done", name=self._open["name"], arguments=text)
        else:
            part = _part(kind, text, self._logprobs)
            self._open["content"] = [part]
            if kind == "message":
                yield self._of_part("response.output_text.done", text=text, logprobs=self._logprobs)
            else:
                yield self._of_part("response.reasoning_text.done", text=text)
            yield self._of_part("response.content_part.done", part=part)
        self._open["status"] = status
        yield {"type": "response.output_item.done", "output_index": len(self.items), "item": self._open}
        self.items.append(self._open)
        self._open = None

    def _of_item(self, event: str, **members: Any) -> Event:
        assert self._open is not None
        return {"type": event, "item_id": self._open["id"], "output_index": len(self.items), **members}

    def _of_part(self, event: str, **members: Any) -> Event:
        return self._of_item(event, content_index=0, **members)


def _part(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    """The one part of a message, or of what was thought."""
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
