"""Grammars for answers that must be calls, in llguidance's Lark. What comes from requests is data in them: names are
quoted strings, schemas are JSON behind `%json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from slotwise.api.formats.thoughts import ThoughtMarks
from slotwise.api.formats.toolbox import Tool
from slotwise.api.schemas import json_rule
from slotwise.request import Constraint

#: The field that tools come in, in all APIs.
PARAM = "tools"
#: Of one answer. A grammar without end would have small models call for ever.
MOST_CALLS = 16
_SPACE = "SPACE: /[ \\n]{1,4}/"


class Lark:
    """The rules of one grammar, and the marks that it names."""

    def __init__(self) -> None:
        self._rules: list[str] = []
        self._marks: list[str] = []
        self._thinks = False

    def rule(self, name: str, body: str) -> None:
        self._rules.append(f"{name}: {body}")

    def text(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def mark(self, text: str) -> str:
        """A text that may be a token of its own: see `Constraint.marks`."""
        if text not in self._marks:
            self._marks.append(text)
        return f"mark_{self._marks.index(text)}"

    def until(self, mark: str) -> str:
        """Any text, and the mark after it."""
        return self.mark(mark).replace("mark", "until")

    def thoughts(self, marks: ThoughtMarks | None) -> str:
        """What may come before the answer."""
        if marks is None:
            return ""
        self._thinks = True
        opening = f"{self.mark(marks.opening)} {self.text(marks.after) if marks.after else ''}"
        self.rule("thoughts_free", f"({opening} {self.until(marks.closing)} SPACE?)?")
        self.rule("thoughts_opened", f"{self.until(marks.closing)} SPACE?")
        self._rules.append(_SPACE)
        return "thoughts "

    def arguments(self, tool: Tool) -> str:
        """Raises InvalidRequest: the schema is larger than any honest one."""
        return json_rule({"type": "object"} | tool.parameters, PARAM, strict=tool.strict)

    def any_of(self, tools: Sequence[Tool], one: Callable[[Tool], str]) -> str:
        """The name of a rule: one call, of any of the tools."""
        for index, tool in enumerate(tools):
            self.rule(f"call_{index}", one(tool))
        self.rule("call", " | ".join(f"call_{index}" for index in range(len(tools))))
        return "call"

    def repeated(self, call: str, separator: str, *, parallel: bool) -> str:
        """`call` and `separator` in Lark: once, or several times."""
        return f"{call} ({separator} {call}){{0,{MOST_CALLS - 1}}}" if parallel else call

    def asked(self, constraint: Constraint) -> str:
        """The name of a rule: what another grammar says."""
        lines = constraint.grammar.split("\n")
        # Strings and schemas have no line breaks in them, so this is the rule and nothing else.
        self._rules += [f"asked:{line[6:]}" if line.startswith("start:") else line for line in lines]
        return "asked"

    def constraint(self, start: str, param: str = PARAM) -> Constraint:
        grammar = "\n".join((f"start: {start}", *self._rules, ""))
        return Constraint(grammar, param, tuple(self._marks), self._thinks)
