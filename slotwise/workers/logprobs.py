"""Log probabilities of tokens, from the logits of their place; and whom to tell of them when. Pure.

The model's own distribution: the logits are as they were before penalties, bans, constraints and temperature.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

#: For a token that can not come: JSON has no infinity, and OpenAI's API says this.
IMPOSSIBLE = -9999.0
_ROWS = 64


def log_probabilities(logits: npt.NDArray[np.float32], token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Of one token, and the `top` likeliest ones with theirs, the likeliest first."""
    best = logits.max()
    normalizer = float(best) + float(np.log(np.exp(logits - best).sum()))
    likeliest = likeliest_tokens(logits, top) if top else ()
    return _shown(logits[token], normalizer), [(int(one), _shown(logits[one], normalizer)) for one in likeliest]


def likeliest_tokens(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Of equal ones, the first.

    `count` columns of a table have a maximum of at least the least of the `count` largest maxima: whatever is less is
    not looked at. A partial sort of a large vocabulary takes ten times as long.
    """
    columns = len(logits) // _ROWS
    if columns >= count:
        maxima = logits[: _ROWS * columns].reshape(_ROWS, columns).max(axis=0)
        bound = np.partition(maxima, columns - count)[columns - count]
        candidates = np.flatnonzero(logits >= bound)
    else:
        candidates = np.arange(len(logits))
    order = np.argsort(-logits[candidates], kind="stable")[:count]
    return candidates[order]


def _shown(logit: float, normalizer: float) -> float:
    return max(float(logit) - normalizer, IMPOSSIBLE)


class Untold:
    """Tokens whose text is held back, or cut off in the end: they are told of when their text is."""

    def __init__(self) -> None:
        #: Characters of the answer that are told when a token is told, in order.
        self._due: deque[int] = deque()

    def add(self, begins: int, *, has_text: bool) -> None:
        """A token's text begins after so many characters."""
        self._due.append(begins + has_text)

    def told(self, characters: int) -> int:
        """So many characters are told by now: how many more tokens that are."""
        count = 0
        while self._due and self._due[0] <= characters:
            self._due.popleft()
            count += 1
        return count
