"""The formats: of each family how calls are read, how they are forced, and what its template wants of the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from slotwise.api.formats import forced, harmony, history
from slotwise.api.formats.block import Block
from slotwise.api.formats.blocks import DeepSeekBlock, GemmaBlock, KeyedBlock, MistralBlock, TaggedBlock
from slotwise.api.formats.lark import Lark
from slotwise.api.formats.parser import MarkedCalls, Marks
from slotwise.api.formats.toolbox import NewId, Tool
from slotwise.api.pieces import AnswerParser
from slotwise.request import ChatMessage

Rewrite = Callable[[Sequence[ChatMessage]], tuple[ChatMessage, ...]]
#: From a grammar, tools, and whether several calls are allowed, to what the answer must be: rules by name.
Forced = Callable[[Lark, Sequence[Tool], bool], str]


@dataclass(frozen=True, slots=True)
class Format:
    """How a family of models writes its calls."""

    name: str
    reader: Callable[[Sequence[Tool], NewId], AnswerParser]
    forced: Forced
    history: tuple[Rewrite, ...] = ()
    #: The template has a place for tools; otherwise they are described in a message.
    tells_tools: bool = True
    #: Its marks may be control tokens, which have no text unless it is asked for.
    special_text: bool = True
    #: Calls where an answer may be JSON of another kind too, if they are to have marks then.
    beside: Forced | None = None


def _marked(marks: Marks) -> Callable[[Sequence[Tool], NewId], AnswerParser]:
    return partial(MarkedCalls, marks)


GENERIC = Format(
    "generic",
    # Many models know these marks, though their templates say nothing of tools.
    _marked(
        Marks(
            {"<tool_call>": Block, DeepSeekBlock.BEGIN: DeepSeekBlock},
            ("</tool_call>",),
            bare=True,
        )
    ),
    forced.bare,
    (history.as_plain_messages,),
    tells_tools=False,
    special_text=False,
    beside=partial(forced.enclosed, begin="<tool_call>", end="</tool_call>"),
)
HERMES = Format(
    "hermes",
    _marked(Marks({"<tool_call>": Block}, ("</tool_call>",))),
    partial(forced.enclosed, begin="<tool_call>", end="</tool_call>"),
)
QWEN_CODER = Format(
    "qwen-coder",
    _marked(
        Marks(
            {"<tool_call>": TaggedBlock, "<function=": partial(TaggedBlock, opened=True)},
            ("</tool_call>",),
        )
    ),
    partial(forced.enclosed, begin="<tool_call>", end="</tool_call>"),
)
GLM = Format(
    "glm",
    _marked(Marks({"<tool_call>": KeyedBlock}, ("</tool_call>",))),
    partial(forced.enclosed, begin="<tool_call>", end="</tool_call>"),
)
LLAMA = Format(
    "llama",
    _marked(Marks({"<|python_tag|>": Block, "<function=": partial(TaggedBlock, opened=True)}, bare=True)),
    forced.llama,
    (history.one_call_each,),
    beside=partial(forced.llama, begin="<|python_tag|>"),
)
MISTRAL = Format(
    "mistral",
    _marked(Marks({"[TOOL_CALLS]": MistralBlock})),
    partial(forced.listed, begin="[TOOL_CALLS]"),
)
MISTRAL_NAMED = Format("mistral-named", _marked(Marks({"[TOOL_CALLS]": MistralBlock})), forced.mistral_named)
_DEEPSEEK = _marked(Marks({DeepSeekBlock.BEGIN: DeepSeekBlock}))
DEEPSEEK = Format("deepseek", _DEEPSEEK, partial(forced.deepseek, fenced=False))
DEEPSEEK_FENCED = Format("deepseek-fenced", _DEEPSEEK, partial(forced.deepseek, fenced=True))
SEED = Format(
    "seed",
    _marked(Marks({"<seed:tool_call>": TaggedBlock}, ("</seed:tool_call>",))),
    partial(forced.enclosed, begin="<seed:tool_call>", end="</seed:tool_call>"),
)
FUNCTIONARY = Format(
    "functionary", _marked(Marks({"<function=": partial(TaggedBlock, opened=True)})), forced.functionary
)
GEMMA = Format(
    "gemma",
    _marked(Marks({"<|tool_call>": GemmaBlock}, ("<tool_call|>",))),
    partial(forced.enclosed, begin="<|tool_call>", end="<tool_call|>", space=""),
)
GRANITE = Format(
    "granite",
    _marked(Marks({"<|tool_call|>": Block})),
    partial(forced.listed, begin="<|tool_call|>"),
    (partial(history.calls_as_text, mark="<|tool_call|>"),),
)
NEMOTRON = Format(
    "nemotron",
    _marked(Marks({"<TOOLCALL>": Block}, ("</TOOLCALL>",))),
    partial(forced.listed, begin="<TOOLCALL>", end="</TOOLCALL>"),
)
APRIEL = Format(
    "apriel",
    _marked(Marks({"<tool_calls>": Block}, ("</tool_calls>",))),
    partial(forced.listed, begin="<tool_calls>", end="</tool_calls>"),
)
HARMONY = Format("harmony", harmony.Harmony, forced.harmony, (history.thoughts_and_words_as_one, history.one_call_each))
