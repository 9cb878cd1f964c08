"""What holding answers to a schema takes.

    python -m slotwise.benchmarks.constrained [--gguf model.gguf] [--streams 10]

Three tables: a mask, and how it compares with llama.cpp's own grammars (GBNF) over the same texts; choosing a token,
with and without a constraint; and steps of several streams, free and constrained in turn, because a machine has other
work.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import llama_cpp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from slotwise.benchmarks.stepshare import SAMPLINGS
from slotwise.loads import demo_model_path
from slotwise.request import Constraint, SamplingParams
from slotwise.workers.constraint import ConstraintMatcher, Constraints
from slotwise.workers.llama import LlamaModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk, Matcher
from slotwise.workers.protocol import LoadModel, StartSequence

_STRING = r'string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" ["\\/bfnrt])* "\""'
_ROUNDS, _STEPS = 5, 24


@dataclass(frozen=True, slots=True)
class Case:
    """A schema, the same as GBNF, and a text that fits both."""

    schema: dict[str, Any]
    gbnf: str
    example: object

    @property
    def constraint(self) -> Constraint:
        return _held_to(self.schema)


def _held_to(schema: dict[str, Any]) -> Constraint:
    """On one line, as the API asks for it."""
    options = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
    return Constraint(f"start: %json {json.dumps(schema | {'x-guidance': options})}", "benchmark")


_COLOURS = [f"colour {number} of many" for number in range(500)]
_ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
CASES = {
    "two properties": Case(
        _ITEM,
        f'root ::= "{{\\"name\\": " string ", \\"count\\": " integer "}}"\ninteger ::= "-"? [0-9]+\n{_STRING}',
        {"name": "The quick brown fox jumps over the lazy dog, twice a day.", "count": 12345},
    ),
    "a list of objects": Case(
        {"type": "array", "items": _ITEM},
        'root ::= "[" (item (", " item)*)? "]"\n'
        f'item ::= "{{\\"name\\": " string ", \\"count\\": " integer "}}"\ninteger ::= "-"? [0-9]+\n{_STRING}',
        [{"name": f"Item number {number}", "count": 37 * number} for number in range(12)],
    ),
    "500 enum values": Case(
        {"type": "array", "items": {"enum": _COLOURS}},
        'root ::= "[" (value (", " value)*)? "]"\nvalue ::= ' + " | ".join(rf'"\"{text}\""' for text in _COLOURS),
        _COLOURS[::60],
    ),
    "a pattern": Case(
        {"type": "array", "items": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}-[0-9]{3,5}$"}},
        'root ::= "[" (value (", " value)*)? "]"\nvalue ::= "\\"" [A-Z] [a-z]{2,9} "-" [0-9]{3,5} "\\""',
        [f"Harbour-{1000 + number}" for number in range(12)],
    ),
    "any JSON object": Case(
        {"type": "object"},
        'root ::= object\nobject ::= "{" (pair (", " pair)*)? "}"\npair ::= string ": " value\n'
        'value ::= object | array | string | number | "true" | "false" | "null"\n'
        'array ::= "[" (value (", " value)*)? "]"\n'
        f'number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?\n{_STRING}',
        {"title": "A harbour in the morning", "tags": ["sea", "gulls"], "size": {"w": 1.5, "h": 20}, "open": True},
    ),
}


@dataclass(frozen=True, slots=True)
class Masks:
    """Seconds of each token of a text."""

    ours: list[float]
    #: llama.cpp's: a whole mask; and whether one token is allowed, which is enough where the likeliest one is.
    gbnf: list[float]
    gbnf_one: list[float]


def masks_of(case: Case, model: LlamaModel, constraints: Constraints) -> Masks:
    tokens = list(_spelled(constraints.matcher(case.constraint), json.dumps(case.example), model))
    matcher = constraints.matcher(case.constraint)
    ours = []
    for token in tokens:
        ours.append(_seconds(matcher.mask))
        matcher.accept(token)
    whole, one = _gbnf(case.gbnf, tokens, model)
    return Masks(ours, whole, one)


def _spelled(matcher: Matcher, text: str, model: LlamaModel) -> Iterator[int]:
    """The text in the longest tokens that are allowed."""
    pieces = {model.vocabulary.piece(token): token for token in range(model.vocabulary.size)}
    rest = text.encode()
    while rest:
        mask = matcher.mask()
        candidates = (pieces[rest[:length]] for length in range(len(rest), 0, -1) if rest[:length] in pieces)
        token = next(token for token in candidates if mask[token])
        matcher.accept(token)
        yield token
        rest = rest[len(model.vocabulary.piece(token)) :]


def _gbnf(grammar: str, tokens: list[int], model: LlamaModel) -> tuple[list[float], list[float]]:
    vocabulary = llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(model.context))
    sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
    if not sampler:
        raise ValueError(f"llama.cpp does not read this grammar: {grammar[:80]}")
    size = model.info.vocab_size
    data = np.zeros(size, np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
    pointer = data.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))

    def apply(count: int) -> float:
        choice = llama_cpp.llama_token_data_array(data=pointer, size=count, selected=-1, sorted=False)
        return _seconds(lambda: llama_cpp.llama_sampler_apply(sampler, ctypes.byref(choice)))

    whole, one = [], []
    for token in tokens:
        data["id"], data["logit"] = np.arange(size), 0
        whole.append(apply(size))
        if data["logit"][token] == -np.inf:
            raise ValueError("the text does not fit llama.cpp's grammar")
        data["id"][0] = token
        one.append(apply(1))
        llama_cpp.llama_sampler_accept(sampler, token)
    llama_cpp.llama_sampler_free(sampler)
    return whole, one


def choosing(model: LlamaModel, constraints: Constraints, params: SamplingParams, text: str | None) -> float:
    """Median seconds to choose a token; `text`: of a constrained answer that begins so, None: of a free one."""
    model.decode([Chunk(0, 0, [1, 2, 3], outputs=1)])
    taken = []
    for _ in range(100):
        matcher: ConstraintMatcher | None = None
        if text is not None:
            matcher = constraints.matcher(CASES["any JSON object"].constraint)
            for _token in _spelled(matcher, text, model):
                pass
        sampler = model.new_sampler(params, prompt=[], ignore_eos=False, matcher=matcher)
        model.logits(2)
        taken.append(_seconds(partial(sampler.sample, 2)))
        sampler.close()
    model.remove(0)
    return statistics.median(taken)


@dataclass(slots=True)
class Steps:
    """Seconds of steps, by the clock and of processors: others' work is in the first."""

    clock: list[float] = field(default_factory=list)
    processors: list[float] = field(default_factory=list)


def steps(model: LlamaModel, constraints: Constraints, streams: int, params: SamplingParams) -> tuple[Steps, Steps]:
    """With so many streams and nothing else: free, and held to a schema; in turn."""
    endless = _held_to({"type": "array", "items": _ITEM, "minItems": 10_000})
    free, held = Steps(), Steps()
    numbers = itertools.count()
    for constraint, found in ((None, free), (endless, held)) * _ROUNDS:
        loop = StepLoop(model, constraints=constraints)
        for _ in range(streams):
            name = str(next(numbers))
            prompt = model.vocabulary.tokenize(f"List {name}:", add_special=True, parse_special=False)
            loop.prepared(name, prompt)
            loop.start(StartSequence(name, 2 * _STEPS, params, ignore_eos=constraint is None, constraint=constraint))
        alike = 0
        while alike < _STEPS:
            began = time.process_time()
            report = loop.step()
            if report.decode_rows == streams and not report.prefill_tokens:
                alike += 1
                found.clock.append(report.seconds)
                found.processors.append(time.process_time() - began)
        loop.close()
    return free, held


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}"


def _medians(free: list[float], held: list[float]) -> tuple[float, float]:
    return statistics.median(free), statistics.median(held)


def _lost(free: float, held: float) -> str:
    """Of the throughput."""
    return f"{100 * (1 - free / held):.1f}%"


def main(
    gguf: Annotated[Path | None, typer.Option(help="The model; without, the demo model.")] = None,
    streams: Annotated[int, typer.Option(help="How many at a time.")] = 10,
    threads: Annotated[int, typer.Option(help="Of llama.cpp; 0 = all cores.")] = 0,
) -> None:
    console = Console()
    path = str(gguf) if gguf else demo_model_path()
    load = LoadModel("m", path, streams, 512, threads=threads, speculation=False)
    model = LlamaModel(load, lambda stage, fraction: None)
    constraints = Constraints(model.vocabulary)
    table = Table("µs a mask", "tokens", "median", "99%", "largest", "GBNF", "GBNF, one token", box=None)
    for name, case in CASES.items():
        found = masks_of(case, model, constraints)
        ours = (statistics.median(found.ours), float(np.percentile(found.ours, 99)), max(found.ours))
        gbnf = statistics.median(found.gbnf), statistics.median(found.gbnf_one)
        table.add_row(name, str(len(found.ours)), *map(_micro, (*ours, *gbnf)))
    console.print(table)
    table = Table("µs to choose a token", "free", "few allowed", "most allowed", box=None)
    for name, params in SAMPLINGS.items():
        times = [choosing(model, constraints, params, text) for text in (None, "{", '{"a": "some text')]
        table.add_row(name, *map(_micro, times))
    console.print(table)
    table = Table(f"ms a step of {streams} streams", "free", "constrained", "lost", "processor, lost", box=None)
    for name in ("greedy", "top_k, top_p, min_p"):
        free, held = steps(model, constraints, streams, SAMPLINGS[name])
        clock, processors = map(_medians, (free.clock, free.processors), (held.clock, held.processors))
        table.add_row(name, *(f"{1e3 * one:.1f}" for one in clock), _lost(*clock), _lost(*processors))
    console.print(table)
    constraints.close()
    model.close()


if __name__ == "__main__":
    typer.run(main)
