"""The seam between the step loop and a model: llama.cpp in production, a scripted model in tests and simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from slotwise.request import SamplingParams
from slotwise.workers.protocol import ModelInfo


class Chunk(msgspec.Struct, frozen=True):
    """Tokens of one sequence in a batch, at positions `start`, `start + 1`, …

    `outputs`: of so many at its end the logits are wanted. A batch row is one token: the first chunk's tokens are rows
    0, 1 and so on, the next chunk's follow.
    """

    seq_id: int
    start: int
    tokens: Sequence[int]
    outputs: int = 0


class NoTokenAllowed(Exception):
    """Raised when an answer can not go on: its constraint allows no token, or can not be computed."""


class Matcher(Protocol):
    """Where an answer is in what it is constrained to. A sampler accepts each token that it chooses."""

    #: The answer is whole, and nothing can be added to it.
    finished: bool

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which tokens may be next, shape (vocab_size,); it stays until one is accepted. Raises NoTokenAllowed."""

    def accept(self, token: int) -> None:
        """The answer goes on with a token that the mask allows."""


class Sampler(Protocol):
    """Chooses the tokens of one sequence; holds its penalties' history and its random state."""

    def sample(self, row: int) -> int:
        """The next token from the logits of batch row `row` of the last decode, which must have asked for output.

        Raises:
            NoTokenAllowed: the answer can not go on.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class InfillMarks:
    """Tokens around the parts of a text with a gap. `begin`: what the model's prompts begin with; `repository`, `file`:
    before what stands elsewhere, where there are such."""

    prefix: int
    suffix: int
    middle: int
    begin: tuple[int, ...] = ()
    repository: int | None = None
    file: int | None = None


class Vocabulary(Protocol):
    """Text to tokens and back. `tokenize` is called from the prepare thread while a step runs."""

    #: Tokens that end a generation.
    end_tokens: frozenset[int]
    chat_template: str | None
    size: int
    #: Texts of the begin/end tokens, for chat templates.
    bos_text: str
    eos_text: str
    #: None: the model is not made to fill gaps.
    infill: InfillMarks | None

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """Control tokens and those that models are trained to use as marks, with their texts."""

    @property
    def special_texts(self) -> Sequence[str]:
        """Texts of all special tokens: what must not be parsed out of a user's message."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes:
        """What a token is in an answer: nothing, where it is a control token."""

    def special_piece(self, token: int) -> bytes:
        """The same, and of a control token its name."""


class ContextLost(Exception):
    """Raised when a context could not be made again, of whatever size: the model can compute nothing any more."""


class Memory(Protocol):
    """What a context holds of which sequence."""

    @property
    def info(self) -> ModelInfo: ...

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` tokens of `source` become all that `target` has stored."""

    def remove(self, seq_id: int, start: int = 0) -> None:
        """Drop the cells of a sequence from position `start` on."""

    def state_bytes(self, seq_id: int) -> int:
        """How large `state` would be."""

    def state(self, seq_id: int) -> bytearray:
        """All that the context holds of a sequence."""

    def restore(self, seq_id: int, state: bytearray) -> bool:
        """Make a sequence hold what `state` was taken of. False if there is no room: then it holds nothing.

        How it is written may change with the context's layout, not what it says. The bytes must come from `state` of
        the same model and library: llama.cpp trusts them.
        """

    def positions(self, seq_id: int) -> int:
        """How many tokens of the sequence are stored."""

    def resize(self, cells: int) -> bool:
        """Make the context again with so many cells; it holds nothing then, and `info` says what it is.

        False: there is no memory for it, and it is as large as before. States go into it as into the one before, and
        samplers go on. Raises ContextLost.
        """


class Model(Memory, Protocol):
    """A loaded model with one context."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def n_batch(self) -> int:
        """Most rows of one `decode`."""

    def decode(self, chunks: Sequence[Chunk]) -> int:
        """Run one batch of at most `n_batch` rows. Return code as `llama_decode` (llama.h):

        0 done · 1 no free cells, nothing changed · 2 aborted, -1 refused (nothing changed) · < -1 failed; after 2 and
        < -1 a part of the rows may be stored: ask `positions`.
        """

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Of a batch row of the last decode that asked for output, as the model gave them: (vocab_size,). Valid until
        the next decode, and not to be written to."""

    def new_sampler(
        self,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        ignore_eos: bool,
        generated: Sequence[int] = (),
        matcher: Matcher | None = None,
    ) -> Sampler:
        """`generated`: output tokens that there are already; it is as if it had sampled them. `matcher`: holds the
        answer to a constraint, and has accepted them; not together with `ignore_eos`."""

    def close(self) -> None: ...


# ---- models that embed


class EmbeddingFailed(Exception):
    """Raised when a batch was not computed; `code` is what `llama_decode` returned."""

    def __init__(self, code: int) -> None:
        super().__init__(f"llama_decode failed with code {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class RankFormat:
    """How a query and a document are put together for a model that ranks: by the file's own template, with {query} and
    {document}, or else between these tokens."""

    begin: tuple[int, ...] = ()
    middle: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    template: str = ""


class Embedder(Protocol):
    """A loaded model that makes vectors of texts. Nothing is kept from one batch to the next."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def n_batch(self) -> int:
        """Most tokens of one batch, and of one input."""

    @property
    def n_inputs(self) -> int:
        """Most inputs of one batch."""

    @property
    def rank_format(self) -> RankFormat: ...

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[bytes | None]:
        """The vector of each input, at length 1 (of a pair that is ranked, the score as it is): float32, little-endian.
        None where the model gives no finite numbers. Raises EmbeddingFailed."""

    def close(self) -> None: ...
