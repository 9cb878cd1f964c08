"""By what a model file tells that its model was trained to fill a gap between two texts: ids of the tokens that mark
the parts, or tokens with the names that llama.cpp takes for such (llama-vocab.cpp). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set

_KEY = "tokenizer.ggml.{}_token_id"
#: Of the marks of the prefix, the suffix and the gap: keys of their ids, the older one last, and names in use.
_PARTS = (
    (
        (_KEY.format("fim_pre"), _KEY.format("prefix")),
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>"),
        *("<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
    ),
    (
        (_KEY.format("fim_suf"), _KEY.format("suffix")),
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>"),
        *("<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
    ),
    (
        (_KEY.format("fim_mid"), _KEY.format("middle")),
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>"),
        *("<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
    ),
)
#: All names.
MARKS = frozenset(name for _, *names in _PARTS for name in names)


def infills(metadata: Mapping[str, object], marks: Set[str]) -> bool:
    """`metadata`: of the file; `marks`: which of MARKS are tokens of its vocabulary."""
    return all(not marks.isdisjoint(names) or any(_is_id(metadata.get(key)) for key in keys) for keys, *names in _PARTS)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
