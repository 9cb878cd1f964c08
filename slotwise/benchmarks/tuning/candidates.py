"""The settings that are chosen between. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

#: Numbers of slots that are tried.
SLOTS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: Contexts are whole blocks of so many tokens.
_BLOCK = 256
#: Types of KV cells by what they save; below the first two answers may suffer.
KV_TYPES = ("f16", "q8_0", "q4_0")
_BATCHES = (256, 512, 1024, 2048)
_USUAL_BATCH = 512
_ATTENTION = {"on": "flash attention", "off": "no flash attention"}


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """Settings of `slotwise serve` for one model. 0 = as it is by default."""

    slots: int = 8
    context: int = 8192
    kv_layout: str = "split"
    kv_type: str = "f16"
    n_batch: int = 512
    threads: int = 0
    kv_cells: int = 0
    flash_attn: str = "auto"

    def __post_init__(self) -> None:
        if self.kv_layout == "split" and self.kv_cells:
            raise ValueError("split cells are all that the slots need")
        if self.flash_attn == "off" and (self.kv_layout, self.kv_type) != ("split", KV_TYPES[0]):
            raise ValueError(f"{self.kv_layout} {self.kv_type} cells are for flash attention")

    @property
    def settings(self) -> dict[str, Any]:
        """By their names in the configuration."""
        found: dict[str, Any] = {
            "num_parallel": self.slots,
            "context": self.context,
            "kv_layout": self.kv_layout,
            "kv_type": self.kv_type,
            "n_batch": self.n_batch,
        }
        if self.threads:
            found["threads"] = self.threads
        if self.kv_cells:
            found["kv_cells"] = self.kv_cells
        if self.flash_attn != "auto":
            found["flash_attn"] = self.flash_attn
        return found

    @property
    def flags(self) -> tuple[str, ...]:
        """As on the command line."""
        return tuple(
            word for name, value in self.settings.items() for word in (f"--{name.replace('_', '-')}", str(value))
        )

    @property
    def short(self) -> str:
        """For a legend: what is as usual is left out."""
        more = [
            *([self.kv_type] if self.kv_type != KV_TYPES[0] else []),
            *([f"batch {self.n_batch}"] if self.n_batch != _USUAL_BATCH else []),
            *([f"{self.kv_cells:,} cells"] if self.kv_cells else []),
            *([_ATTENTION[self.flash_attn]] if self.flash_attn != "auto" else []),
        ]
        return " ".join([f"{self.slots} × {self.context:,} {self.kv_layout}", *more])

    def __str__(self) -> str:
        cells = f" ({self.kv_cells:,} cells)" if self.kv_cells else ""
        threads = f", {self.threads} threads" if self.threads else ""
        flash = f", {_ATTENTION[self.flash_attn]}" if self.flash_attn != "auto" else ""
        return (
            f"{self.slots} slot{'s' if self.slots > 1 else ''} of {self.context:,}{cells}, {self.kv_layout} "
            f"{self.kv_type}, batch {self.n_batch}{threads}{flash}"
        )


def distance(one: Candidate, other: Candidate) -> int:
    """In how many settings they differ."""
    return sum(getattr(one, field.name) != getattr(other, field.name) for field in fields(Candidate))


def threads_to_try(cores: int, processors: int) -> tuple[int, ...]:
    """Numbers of compute threads beside the usual one, which is that of the physical `cores`: half of them, for where
    steps wait for memory; and all logical `processors`."""
    others = {cores // 2, processors} - {cores}
    return tuple(sorted(one for one in others if one >= 2))


def contexts_for(needs: Sequence[int], most: int) -> list[int]:
    """Contexts that have room for all of these requests, and for all but a few; the longest first. `needs`: tokens of
    each, prompt and answer; `most`: that the model knows."""
    ordered = sorted(needs)
    found = []
    for share in (1.0, 0.99, 0.95):
        longest = ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1]
        found.append(min(-(-longest // _BLOCK) * _BLOCK, most))
    return list(dict.fromkeys(found))


def first_ones(context: int, slots: Iterable[int] = SLOTS) -> Iterator[Candidate]:
    """Slots and layouts: what matters most."""
    for count in slots:
        for layout in ("split", "unified"):
            if count > 1 or layout == "split":
                yield Candidate(slots=count, context=context, kv_layout=layout)


def small_ones(context: int, kv_types: Sequence[str], slots: Iterable[int] = (1, 2, 4, 8, 16)) -> Iterator[Candidate]:
    """With as long a context in less memory: smaller cells, smaller batches, and fewer cells for all."""
    batch = min(_BATCHES)
    for kind in dict.fromkeys((kv_types[0], kv_types[-1])):
        for count in slots:
            yield Candidate(slots=count, context=context, kv_type=kind, n_batch=batch)
            for contexts in (1, 2):
                if contexts < count:
                    cells = contexts * context
                    yield Candidate(count, context, "unified", kind, batch, kv_cells=cells)


@dataclass(frozen=True, slots=True)
class Choices:
    """What may be chosen beside slots, layouts and batches."""

    #: That have room for the requests, the longest first.
    contexts: Sequence[int]
    kv_types: Sequence[str] = KV_TYPES[:1]
    #: Beside the usual number.
    threads: Sequence[int] = ()
    #: Whether settings have flash attention by themselves, where the other way is tried too. On a processor the flash
    #: kernel computes prompts in less time, and rows of decode in long contexts in more.
    is_flash: Callable[[Candidate], bool] | None = None


def changes(candidate: Candidate, choices: Choices) -> Iterator[tuple[str, Candidate]]:
    """One setting changed, with what was done in words."""
    at = SLOTS.index(candidate.slots) if candidate.slots in SLOTS else None
    if at is not None:
        for other in (at - 1, at + 1):
            if 0 <= other < len(SLOTS):
                count = SLOTS[other]
                yield f"{count} slot{'s' if count > 1 else ''}", replace(candidate, slots=count, kv_cells=0)
    for context in choices.contexts:
        if context != candidate.context:
            yield f"context {context:,}", replace(candidate, context=context, kv_cells=0)
    if choices.is_flash is not None and (candidate.kv_layout, candidate.kv_type) == ("split", KV_TYPES[0]):
        usual = replace(candidate, flash_attn="auto")
        attention = "off" if choices.is_flash(usual) else "on"
        if candidate.flash_attn == "auto":
            yield _ATTENTION[attention], replace(candidate, flash_attn=attention)
        elif candidate.flash_attn == attention:
            yield _ATTENTION["on" if attention == "off" else "off"], usual
    for kind in choices.kv_types if candidate.flash_attn != "off" else ():
        if kind != candidate.kv_type:
            yield f"KV cells {kind}", replace(candidate, kv_type=kind)
    for size in _BATCHES:
        if size != candidate.n_batch:
            yield f"batch {size}", replace(candidate, n_batch=size)
    for count in choices.threads:
        if count != candidate.threads:
            yield f"{count} threads", replace(candidate, threads=count)
    if candidate.slots > 1:
        other_layout = "unified" if candidate.kv_layout == "split" else "split"
        yield f"{other_layout} cells", replace(candidate, kv_layout=other_layout, kv_cells=0, flash_attn="auto")
        for part in (2, 4):
            cells = candidate.slots * candidate.context // part
            if cells >= candidate.context and candidate.kv_cells != cells:
                yield (
                    f"1/{part} of the cells",
                    replace(candidate, kv_layout="unified", kv_cells=cells, flash_attn="auto"),
                )
