"""What is said in a load: conversations of wanted lengths, with as much in common as a scenario wants. Pure.

How long everything is comes from the seed alone, so that two servers are asked for the same work; which words it is
made of comes from the run's salt as well, so that nothing is in a server's cache from the run before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from slotwise.benchmarks.asks import Ask, Conversation
from slotwise.benchmarks.lengths import Lengths, fixed
from slotwise.benchmarks.prompts import Ruler, seeded, sentences, text

#: Tokens of one block of a trace whose prompts are described by block hashes (Mooncake, FAST'25).
TRACE_BLOCK = 512
#: Tokens kept free in the context: a template's own, and a tokenizer that counts a little more than foreseen; and for
#: each message what the template puts around it.
TEMPLATE_TOKENS, MESSAGE_TOKENS = 40, 6


@dataclass(frozen=True, slots=True)
class Documents:
    """A pool that questions are asked about: some are asked about often (Zipf with exponent 1)."""

    pool: int
    tokens: int
    #: How many come with a question.
    each: Lengths


@dataclass(frozen=True, slots=True)
class Talk:
    """One kind of conversation. Lengths in tokens."""

    #: Of each turn of the user; with no system prompt and no documents, of the whole prompt.
    prompt: Lengths = fixed(512)
    output: Lengths = fixed(128)
    turns: Lengths = fixed(1)
    #: A system prompt that all have in common.
    system: int = 0
    documents: Documents | None = None
    #: The first turn brings a text and each asks for all of it, changed a little. `prompt` is the text's length.
    edits: bool = False
    #: So many of 1 leave after `cancel_after` seconds.
    cancel_share: float = 0.0
    cancel_after: float = 1.0
    #: Texts in each request for embeddings, of `prompt` tokens; 0 = a chat.
    inputs: int = 0
    #: Which of the models that were named.
    model: int = 0

    def scaled(self, factor: float) -> Talk:
        """The same talk with everything `factor` times as long."""
        documents = self.documents
        return replace(
            self,
            prompt=self.prompt.scaled(factor),
            output=self.output.scaled(factor),
            system=round(self.system * factor),
            documents=documents and replace(documents, tokens=max(1, round(documents.tokens * factor))),
        )

    @property
    def is_uniform(self) -> bool:
        """Every request is as long as any other."""
        lengths = (self.prompt, self.output)
        return self.turns.high == 1 and not self.documents and all(one.low == one.high for one in lengths)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Everything that turns a talk into words for one server and one run."""

    ruler: Ruler
    seed: int
    #: Another one for each run: see the module's docstring.
    salt: str
    models: tuple[str, ...] = ("",)
    #: Most tokens of a request, prompt and answer, where that is known: nothing longer is asked.
    context: int | None = None
    #: All answers' texts are needed: somebody counts their tokens.
    keep_text: bool = False
    #: Answers may end where the model ends them: for servers that know no ignore_eos.
    natural_length: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """How long one turn is, in tokens, and which documents it is about."""

    own: int
    output: int
    documents: tuple[int, ...] = ()
    #: The context had no room for all of it.
    cut: bool = False


def conversation(
    talk: Talk, speaker: Speaker, crowd: str, number: int, *, who: str = "", key: str = "", part: float = 1.0
) -> Conversation:
    """Conversation `number` of a crowd, as asks; it is sent the answers. It ends before it outgrows the context.

    `part`: how much of each answer is asked for.
    """
    sizes = seeded(speaker.seed, crowd, number)
    words = seeded(speaker.salt, speaker.seed, crowd, number)
    model = speaker.models[talk.model % len(speaker.models)]
    if talk.inputs:
        inputs = tuple(_text(words, speaker, talk.prompt.draw(sizes)) for _ in range(talk.inputs))
        yield Ask(1, inputs=inputs, who=who, key=key, model=model)
        return
    messages: list[dict[str, str]] = []
    if talk.system:
        messages.append({"role": "system", "content": _common(speaker, "system", talk.system)})
    turns = turns_of(talk, sizes, speaker.context)
    for turn in turns:
        messages.append({"role": "user", "content": _question(turn, talk, speaker, words, alone=not messages)})
        answer = yield Ask(
            max(1, round(part * turn.output)),
            messages=tuple(messages),
            who=who,
            key=key,
            model=model,
            exact=not speaker.natural_length,
            cancel_after=talk.cancel_after if sizes.random() < talk.cancel_share else None,
            keep_text=speaker.keep_text or len(turns) > 1,
            cut=turn.cut,
        )
        messages.append({"role": "assistant", "content": answer})


def turns_of(talk: Talk, sizes: random.Random, context: int | None) -> list[Turn]:
    """The turns of one conversation, as far as the context has room for them.

    The first turn is shortened to fit, its answer to half of the context at the most; later ones that do not fit are
    left out. All are marked as cut then.
    """
    wanted = [_drawn(talk, sizes) for _ in range(talk.turns.draw(sizes))]
    if context is None:
        return wanted
    kept: list[Turn] = []
    used = talk.system + TEMPLATE_TOKENS
    for turn in wanted:
        shared = len(turn.documents) * (talk.documents.tokens if talk.documents else 0)
        output = min(turn.output, max(1, context // 2))
        room = context - used - shared - output - MESSAGE_TOKENS
        if kept and room < turn.own:
            break
        own = max(1, min(turn.own, room))
        kept.append(Turn(own, output, turn.documents, cut=(own, output) != (turn.own, turn.output)))
        # Two messages more: the question and its answer.
        used += own + shared + output + 2 * MESSAGE_TOKENS
    return kept if len(kept) == len(wanted) else [replace(turn, cut=True) for turn in kept]


def _drawn(talk: Talk, sizes: random.Random) -> Turn:
    documents = talk.documents
    chosen: list[int] = []
    if documents is not None:
        weights = [1 / rank for rank in range(1, documents.pool + 1)]
        chosen = [sizes.choices(range(documents.pool), weights)[0] for _ in range(documents.each.draw(sizes))]
    return Turn(talk.prompt.draw(sizes), talk.output.draw(sizes), tuple(dict.fromkeys(chosen)))


def _question(turn: Turn, talk: Talk, speaker: Speaker, words: random.Random, *, alone: bool) -> str:
    tokens = talk.documents.tokens if talk.documents else 0
    documents = [_common(speaker, f"document {index}", tokens) for index in turn.documents]
    ruler = speaker.ruler
    if talk.edits:
        word = text(words, 1)
        if not alone:
            return f"Now write {word} in place of one of the words, and return all of the text again."
        own = sentences(words, ruler.bare_words(turn.own))
        return f"Correct the spelling of this text and return all of it:\n\n{own}"
    # The template's own tokens are part of a lone prompt's length.
    own = text(words, ruler.words_for(turn.own) if alone and not documents else ruler.bare_words(turn.own))
    return "\n\n".join([*documents, own])


def _common(speaker: Speaker, what: str, tokens: int) -> str:
    """The same text for everyone in the run."""
    return _text(seeded(speaker.salt, what), speaker, tokens)


def _text(words: random.Random, speaker: Speaker, tokens: int) -> str:
    return text(words, speaker.ruler.bare_words(tokens))


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One line of a trace: when, how long, and which blocks of prompt it has in common with others."""

    seconds: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    #: Tokens of each block.
    block_tokens: int = TRACE_BLOCK


def traced(request: TracedRequest, speaker: Speaker, number: int, key: str = "") -> Conversation:
    """A request of a trace, in words: equal blocks are equal text, and what is beyond them is its own."""
    wanted = Talk(prompt=fixed(max(1, request.prompt_tokens)), output=fixed(max(1, request.output_tokens)))
    (turn,) = turns_of(wanted, seeded(0), speaker.context)
    size = request.block_tokens
    blocks = request.blocks[: turn.own // size]
    parts = [_common(speaker, f"block {block}", size) for block in blocks]
    rest = turn.own - size * len(blocks)
    own = seeded(speaker.salt, speaker.seed, "trace", number)
    parts.append(text(own, speaker.ruler.bare_words(rest) if blocks else speaker.ruler.words_for(rest)))
    yield Ask(
        turn.output,
        messages=({"role": "user", "content": " ".join(parts)},),
        key=key,
        model=speaker.models[0],
        exact=not speaker.natural_length,
        keep_text=speaker.keep_text,
        cut=turn.cut,
    )
