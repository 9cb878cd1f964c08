"""Special-token texts that a request wrote, kept as text while a template is rendered. Pure.

They are replaced by markers that no request can contain before the rendering, and told apart again afterwards. A marker
has no letters, so that it survives filters such as `upper`.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

_BEGIN, _END = "\ue000", "\ue001"


class Quote:
    """Of one rendering."""

    def __init__(self, special: re.Pattern[str] | None) -> None:
        """`special`: what is to stay text; None = there are no special tokens."""
        self._special = special
        self._texts: list[str] = []
        #: How much text was quoted, in characters as the template meets it.
        self.characters = 0
        nonce = str(secrets.randbelow(10**18))
        self._opening = f"{_BEGIN}{nonce}:"
        self._marker = re.compile(f"{self._opening}(\\d+){_END}")
        # As JSON has it, with the two marks escaped or not.
        self._marker_in_json = re.compile(f"(?:{_BEGIN}|\\\\ue000){nonce}:(\\d+)(?:{_END}|\\\\ue001)")

    def text(self, text: str) -> str:
        quoted = self._special.sub(lambda match: self._mark(match.group()), text) if self._special else text
        self.characters += len(quoted)
        return quoted

    def value(self, value: Any) -> Any:
        """Of a JSON value: all texts in it, names of members too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(member) for name, member in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def to_json(
        self, value: Any, indent: int | None, *, ensure_ascii: bool, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """Quoted text is escaped as all the rest is: a special token's text may hold a quotation mark."""
        text = json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=str
        )

        def escaped(match: re.Match[str]) -> str:
            return self._mark(json.dumps(self._texts[int(match.group(1))], ensure_ascii=ensure_ascii)[1:-1])

        return self._marker_in_json.sub(escaped, text)

    def split(self, rendered: str) -> list[tuple[str, bool]]:
        """(text, parse_special) pieces in order; False: it was quoted, and is to be tokenised as text."""
        pieces: list[tuple[str, bool]] = []
        for index, part in enumerate(self._marker.split(rendered)):
            text = self._texts[int(part)] if index % 2 else part
            if text:
                pieces.append((text, index % 2 == 0))
        return pieces

    def _mark(self, text: str) -> str:
        self._texts.append(text)
        return f"{self._opening}{len(self._texts) - 1}{_END}"
