"""The entrance: from a chat with tools to what the model is told, what its answer must be, and who takes it apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from slotwise.api.formats import families, forced, history
from slotwise.api.formats.detect import format_of, takes_system
from slotwise.api.formats.families import Format
from slotwise.api.formats.lark import Lark
from slotwise.api.formats.thoughts import ThoughtMarks, Thoughts, thought_marks, told_not_to
from slotwise.api.formats.toolbox import NewId, Tool, new_call_id, told, tools_of
from slotwise.api.pieces import AnswerParser, PlainText
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatPrompt, Constraint

#: Of all tools of a request, as JSON: writing them into a prompt or a grammar holds up everybody else.
MAX_TOOLS_BYTES = 512 * 1024
_LISTED_NAMES = 8


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools are to be called. `name`: of the one that must be; the mode is `required` then."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None

    @property
    def forced(self) -> bool:
        return self.mode == "required" or self.name is not None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Of one chat: what goes into its `GenerationRequest`, and what takes each answer apart."""

    prompt: ChatPrompt
    constraint: Constraint | None
    parser: Callable[[], AnswerParser]
    special_text: bool


def arrange(
    prompt: ChatPrompt,
    facts: ModelFacts | None,
    choice: ToolChoice = ToolChoice(),
    *,
    parallel: bool = True,
    constraint: Constraint | None = None,
    new_id: NewId = new_call_id,
) -> Arrangement:
    """`parallel`: an answer may have several calls. `constraint`: what an answer without forced calls must be.

    Raises:
        InvalidRequest: a call is forced, and there is no such tool, or its schema is too large.
    """
    if prompt.tools and (size := len(msgspec.json.encode(prompt.tools))) > MAX_TOOLS_BYTES:
        message = f"'tools' has {size} bytes of names, descriptions and schemas; at most {MAX_TOOLS_BYTES} are read."
        raise InvalidRequest(message, param="tools")
    template = facts.template if facts is not None else None
    form = format_of(template)
    # gpt-oss thinks in a channel, which its reader knows.
    marks = None if form is families.HARMONY else thought_marks(template)
    tools = tools_of(prompt.tools) if choice.mode != "none" else ()
    wanted = _wanted(tools, choice)
    thinks = None if told_not_to(prompt.template_args) else marks
    return Arrangement(
        _told(prompt, form, template, tools, choice, parallel=parallel, marked=constraint is not None),
        _constraint(form, thinks, tools, wanted, constraint, parallel=parallel),
        _parser(form, marks, tools, new_id),
        special_text=marks is not None or form is families.HARMONY or (bool(tools) and form.special_text),
    )


def _wanted(tools: tuple[Tool, ...], choice: ToolChoice) -> tuple[Tool, ...]:
    """The tools of which one must be called; none if nothing must."""
    if not choice.forced:
        return ()
    wanted = tuple(tool for tool in tools if choice.name in (None, tool.name))
    if not wanted and choice.name is not None:
        names = ", ".join(tool.name for tool in tools[:_LISTED_NAMES]) or "there are none"
        message = f"'tool_choice' names the function {choice.name[:100]!r}, which is not in 'tools' ({names})."
        raise InvalidRequest(message, param="tool_choice")
    if not wanted:
        raise InvalidRequest("'tool_choice' demands a call, and 'tools' has no function.", param="tool_choice")
    return wanted


def _told(
    prompt: ChatPrompt,
    form: Format,
    template: str | None,
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    parallel: bool,
    marked: bool,
) -> ChatPrompt:
    messages = prompt.messages
    for rewrite in form.history:
        messages = rewrite(messages)
    if tools and not form.tells_tools:
        text = _instructions(tools, choice, parallel=parallel, marked=marked and not choice.forced)
        messages = history.with_instructions(messages, text, system=takes_system(template))
    if not takes_system(template):
        messages = history.system_as_user(messages)
    native = tuple(map(told, tools)) if form.tells_tools else ()
    return msgspec.structs.replace(prompt, messages=messages, tools=native)


def _instructions(tools: Sequence[Tool], choice: ToolChoice, *, parallel: bool, marked: bool) -> str:
    """What a model is told that has no place for tools. Short: small models lose the thread.

    `marked`: other answers are JSON too, so calls have marks around them.
    """
    lines = ["You can call these functions:"]
    lines += [json.dumps(told(tool)["function"], ensure_ascii=False) for tool in tools]
    call = '{"name": "FUNCTION", "arguments": {"NAME": VALUE}}'
    if marked:
        lines.append(f"To call one, answer only with:\n<tool_call>\n{call}\n</tool_call>")
    else:
        lines.append(f"To call one, answer only with JSON: {call}")
    if parallel and not marked:
        lines.append('To call several: {"tool_calls": [{"name": …, "arguments": {…}}, {"name": …, "arguments": {…}}]}')
    if choice.name is not None:
        lines.append(f"Call {choice.name} now.")
    elif choice.forced:
        lines.append("Call a function now.")
    else:
        lines.append("If no function is needed, answer in words.")
    return "\n".join(lines)


def _parser(
    form: Format, marks: ThoughtMarks | None, tools: Sequence[Tool], new_id: NewId
) -> Callable[[], AnswerParser]:
    reads = bool(tools) or form is families.HARMONY

    def parser() -> AnswerParser:
        answer: AnswerParser = form.reader(tools, new_id) if reads else PlainText()
        return answer if marks is None else Thoughts(marks, answer)

    return parser if reads or marks is not None else PlainText


def _constraint(
    form: Format,
    marks: ThoughtMarks | None,
    tools: Sequence[Tool],
    wanted: Sequence[Tool],
    constraint: Constraint | None,
    *,
    parallel: bool,
) -> Constraint | None:
    """`wanted`: one of these must be called; otherwise any of `tools` may be, and other answers are as asked for."""
    harmony = form is families.HARMONY
    if not wanted and (constraint is None or not (tools or marks or harmony)):
        return constraint
    lark = Lark()
    thoughts = forced.harmony_thought(lark) if harmony else lark.thoughts(marks)
    if wanted:
        return lark.constraint(thoughts + form.forced(lark, wanted, parallel))
    assert constraint is not None
    asked = lark.asked(constraint)
    answers = [forced.harmony_final(lark, asked) if harmony else asked]
    if tools:
        answers.append((form.beside or form.forced)(lark, tools, parallel))
    return lark.constraint(f"{thoughts}({' | '.join(answers)})", constraint.param)
