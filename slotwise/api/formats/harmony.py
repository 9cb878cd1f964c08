"""gpt-oss's format: an answer is several messages, each with a header that names its channel.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`: `analysis` is thought, `final`
is the answer, `commentary` is text for the user too, and a message `to=functions.NAME` is a call. OpenAI's own library
for it (openai-harmony) fetches its vocabulary over the network before it reads anything, which a server must not do,
and it wants tokens where we have text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from slotwise.api.formats.parser import first_mark, held_back, parts
from slotwise.api.formats.toolbox import Calls, NewId, NotACall, Tool
from slotwise.api.pieces import Piece, Reasoning, Text

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
#: What ends a message. The last two end the answer as well.
_ENDS = (END, START, CALL, RETURN)
_HEADERS = (START, CHANNEL, MESSAGE, "to=")
_LONGEST_HEADER = 300
_NAMED_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_PEOPLE = frozenset(("user", "all", "assistant"))


class Harmony:
    """Takes an answer of gpt-oss apart. A message to somebody who is not known is text, with its header."""

    def __init__(self, tools: Sequence[Tool], new_id: NewId) -> None:
        self._calls = Calls(tools, new_id)
        self._buffer = ""
        #: What the message is told as that is read, or was last; None: there was none.
        self._kind: type[Text] | type[Reasoning] | None = None
        #: A message's text is read.
        self._body = False
        #: Messages of one kind are told with an empty line between them.
        self._said: set[type] = set()
        self._pause = False

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for part in parts(text):
            self._buffer += part
            while (told := self._in_body() if self._body else self._in_header()) is not None:
                pieces += told
        return pieces

    def finish(self) -> list[Piece]:
        rest, self._buffer = self._buffer, ""
        if self._body:
            return self._message_part(rest) + self._message_end()
        # A header that breaks off says nothing but that it was one.
        return [] if not rest.strip() or first_mark(rest, (START, CHANNEL)) else [Text(rest)]

    def _in_header(self) -> list[Piece] | None:
        """None: not all of it is here."""
        body = self._buffer.lstrip()
        if not body or any(mark.startswith(body) for mark in _HEADERS):
            return None
        if not body.startswith(_HEADERS):
            # An answer without any form is an answer.
            return self._begin(Text)
        end = self._buffer.find(MESSAGE)
        if end < 0:
            if len(body) <= _LONGEST_HEADER:
                return None
            # Its first mark is text; whatever follows is looked at again.
            mark = next(mark for mark in _HEADERS if body.startswith(mark))
            self._buffer = body[len(mark) :]
            return self._begin(Text) + self._message_part(mark)
        header, self._buffer = self._buffer[:end], self._buffer[end + len(MESSAGE) :]
        recipient, channel = _RECIPIENT.search(header), _NAMED_CHANNEL.search(header)
        if recipient is not None and recipient[1] not in _PEOPLE:
            return self._begin_call(recipient[1], header)
        return self._begin(Reasoning if channel is not None and channel[1] == "analysis" else Text)

    def _begin(self, kind: type[Text] | type[Reasoning]) -> list[Piece]:
        self._kind, self._body = kind, True
        self._pause = kind in self._said
        return []

    def _begin_call(self, recipient: str, header: str) -> list[Piece]:
        self._begin(Text)
        try:
            self._calls.begin(recipient.removeprefix("functions."))
        except NotACall:
            return self._message_part(header + MESSAGE)
        return self._calls.take()

    def _in_body(self) -> list[Piece] | None:
        found = first_mark(self._buffer, _ENDS)
        if found is None:
            sure = len(self._buffer) - held_back(self._buffer, _ENDS)
            if not sure:
                return None
            text, self._buffer = self._buffer[:sure], self._buffer[sure:]
            return self._message_part(text)
        place, mark = found
        text, self._buffer = self._buffer[:place], self._buffer[place + len(mark) * (mark != START) :]
        return self._message_part(text) + self._message_end()

    def _message_part(self, text: str) -> list[Piece]:
        if not text:
            return []
        if self._calls.open:
            self._calls.arguments(text)
            return self._calls.take()
        assert self._kind is not None
        if self._pause:
            text, self._pause = f"\n\n{text}", False
        self._said.add(self._kind)
        return [self._kind(text)]

    def _message_end(self) -> list[Piece]:
        self._body = False
        if self._calls.open:
            self._calls.end()
        return self._calls.take()
