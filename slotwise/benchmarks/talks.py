"""What is said in a load: conversations of wanted lengths, with as much in common as a scenario wants. Pure.

How long everything is comes from the seed alone, so that two servers are asked for the same work; which words it is
made of comes from the run's salt as well, so that nothing is in a server's cache from the run before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from slotwise.benchmarks.asks import Ask, Conversation
from slotwise.benchmarks.lengths import Lengths, fixed
from slotwise.benchmarks.prompts import Ruler, seeded, text

#: Tokens of one block of a trace whose prompts are described by block hashes (Mooncake, FAST'25).
TRACE_BLOCK = 512
#: Tokens kept free in the context: a template's own, and a tokenizer that counts a little more than foreseen.
_MARGIN = 48


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
    #: Exactly so many output tokens are wanted.
    exact: bool = True
    #: A system prompt that all have in common.
    system: int = 0
    documents: Documents | None = None
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

    @property
    def mean_output(self) -> float:
        """Estimated from draws: the clipped distributions have no formula worth reading."""
        rng = seeded("mean")
        return sum(self.output.draw(rng) for _ in range(2000)) / 2000


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


def conversation(
    talk: Talk, speaker: Speaker, crowd: str, number: int, *, who: str = "", key: str = ""
) -> Conversation:
    """Conversation `number` of a crowd, as asks; it is sent the answers. It ends before it outgrows the context."""
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
    used = talk.system
    turns = talk.turns.draw(sizes)
    for turn in range(turns):
        question = _Question(talk, sizes, speaker, used)
        if turn and question.outgrows:
            return
        used += question.tokens + question.output
        # The template's own tokens are part of a lone prompt's length.
        alone = not turn and not talk.system
        messages.append({"role": "user", "content": question.words(words, alone=alone)})
        answer = yield Ask(
            question.output,
            messages=tuple(messages),
            who=who,
            key=key,
            model=model,
            exact=talk.exact,
            cancel_after=talk.cancel_after if sizes.random() < talk.cancel_share else None,
            keep_text=speaker.keep_text or turns > 1,
        )
        messages.append({"role": "assistant", "content": answer})


class _Question:
    """How long one turn is, and what it is about."""

    def __init__(self, talk: Talk, sizes: random.Random, speaker: Speaker, used: int) -> None:
        self._speaker = speaker
        self._document_tokens = talk.documents.tokens if talk.documents else 0
        self._chosen = _chosen(talk.documents, sizes) if talk.documents else []
        self._own = talk.prompt.draw(sizes)
        self.output = talk.output.draw(sizes)
        self.outgrows = False
        if speaker.context is not None:
            self._fit(speaker.context, used)
        self.tokens = self._own + self._shared

    def _fit(self, context: int, used: int) -> None:
        """An answer may take half of the context, a prompt what is then left."""
        self.output = min(self.output, max(1, context // 2))
        room = context - used - self._shared - self.output - _MARGIN
        self.outgrows = room < self._own
        self._own = max(1, min(self._own, room))

    @property
    def _shared(self) -> int:
        return len(self._chosen) * self._document_tokens

    def words(self, words: random.Random, *, alone: bool) -> str:
        ruler = self._speaker.ruler
        documents = [_common(self._speaker, f"document {index}", self._document_tokens) for index in self._chosen]
        own = text(words, ruler.words_for(self._own) if alone and not documents else ruler.bare_words(self._own))
        return "\n\n".join([*documents, own])


def _chosen(documents: Documents, sizes: random.Random) -> list[int]:
    weights = [1 / rank for rank in range(1, documents.pool + 1)]
    drawn = [sizes.choices(range(documents.pool), weights)[0] for _ in range(documents.each.draw(sizes))]
    return list(dict.fromkeys(drawn))


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


def traced(request: TracedRequest, speaker: Speaker, number: int, key: str = "") -> Conversation:
    """A request of a trace, in words: equal blocks are equal text, and what is beyond them is its own."""
    blocks = request.blocks[: request.prompt_tokens // TRACE_BLOCK]
    parts = [_common(speaker, f"block {block}", TRACE_BLOCK) for block in blocks]
    rest = request.prompt_tokens - TRACE_BLOCK * len(blocks)
    own = seeded(speaker.salt, speaker.seed, "trace", number)
    parts.append(text(own, speaker.ruler.bare_words(rest) if blocks else speaker.ruler.words_for(rest)))
    content = " ".join(parts)
    messages = ({"role": "user", "content": content},)
    yield Ask(
        max(1, request.output_tokens),
        messages=messages,
        key=key,
        model=speaker.models[0],
        keep_text=speaker.keep_text,
    )
