"""The process that measures what steps of a model take: `calibration/measuring` starts it.

The model is computed with as a worker does (batches, samplers), without its books. Whatever libraries print goes to
standard error; standard output has a line of JSON for each point, as it is measured.
"""

from __future__ import annotations

import os
import random
import sys
import time

import msgspec

from slotwise.benchmarks.calibration.observations import Observation, Opened, Order, Point
from slotwise.request import SamplingParams
from slotwise.workers.cells import Reuse
from slotwise.workers.llama.model import LlamaModel
from slotwise.workers.model import Chunk, Sampler

#: Steps that are not measured: kernels and threads wake up.
_WARM = 2
#: Of the time there is, one point takes no more; and so many are measured, whatever they take.
_MOST_PART, _AT_LEAST = 0.04, 6
#: A chunk that would take more than this part of all the time there is, is left out; and a sequence is no deeper than
#: what is computed in such a part of it, but so deep at least.
_LARGEST_PART, _DEEP_PART, _LEAST_DEEP = 0.1, 0.12, 512
_GREEDY = SamplingParams(temperature=0)


class _Rig:
    """One model, and steps of any kind."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._random = random.Random(0)
        self._samplers: list[Sampler] = []
        #: What each row holds.
        self._held: dict[int, int] = {}
        #: What a token of a prompt took last.
        self._token_s = 0.0

    def within(self, point: Point, seconds: float) -> Point | None:
        """The point, no deeper than there is time for; None: it takes too much of the `seconds` that there are."""
        if point.tokens * self._token_s > _LARGEST_PART * seconds:
            return None
        if not self._token_s:
            return point
        most = max(int(_DEEP_PART * seconds / self._token_s), _LEAST_DEEP)
        return msgspec.structs.replace(point, depth=min(point.depth, most), foreign=min(point.foreign, most))

    def measure(self, point: Point, most: float) -> list[float]:
        """Seconds of each repeat, in about `most` seconds; at least one."""
        self._prepare(point)
        seconds: list[float] = []
        for turn in range(point.repeats + _WARM):
            took = self._step(point)
            if turn >= _WARM or took > 1.0:
                seconds.append(took)
            if point.tokens > 1:
                self._token_s = took / point.tokens
            if seconds and sum(seconds) > most:
                break
        return seconds

    def _prepare(self, point: Point) -> None:
        """Each row holds what it is to hold; what is filled already is not computed again."""
        rows, last = max(point.rows, 1) + bool(point.rows and point.tokens), self._model.info.rows - 1
        kept = {0: point.depth, last: point.foreign}
        for row in range(self._model.info.rows):
            if self._held.get(row, 0) < kept.get(row, 0) or not kept.get(row):
                self._model.remove(row)
                self._held.pop(row, None)
            else:
                self._model.remove(row, kept[row])
                self._held[row] = kept[row]
        if point.foreign:
            self._fill(last, point.foreign)
        if point.depth:
            self._fill(0, point.depth)
            for row in range(1, rows):
                self._model.copy(0, row, point.depth)
                self._held[row] = point.depth

    def _fill(self, row: int, tokens: int) -> None:
        done = self._held.get(row, 0)
        while done < tokens:
            count = min(tokens - done, self._model.n_batch)
            self._decode([Chunk(row, done, self._tokens(count), 0)])
            done += count
        self._held[row] = tokens

    def _step(self, point: Point) -> float:
        model, chunks = self._model, []
        if point.copied:
            model.copy(0, 1, point.depth)
        for row in range(point.rows):
            held = self._held.get(row, 0)
            chunks.append(Chunk(row, held, self._tokens(1), 1))
        if point.tokens:
            row = point.rows
            chunks.append(Chunk(row, self._held.get(row, 0), self._tokens(point.tokens), 1))
        began = time.perf_counter()
        self._decode(chunks)
        at = -1
        for index, chunk in enumerate(chunks):
            at += len(chunk.tokens)
            self._sampler(index).sample(at)
        took = time.perf_counter() - began
        for chunk in chunks:
            if len(chunk.tokens) > 1:
                model.remove(chunk.seq_id, chunk.start)
            else:
                self._held[chunk.seq_id] = chunk.start + 1
        return took

    def _decode(self, chunks: list[Chunk]) -> None:
        if (code := self._model.decode(chunks)) != 0:
            raise SystemExit(f"llama_decode failed with code {code}")

    def _sampler(self, index: int) -> Sampler:
        while len(self._samplers) <= index:
            self._samplers.append(self._model.new_sampler(_GREEDY, prompt=[0], ignore_eos=True))
        return self._samplers[index]

    def _tokens(self, count: int) -> list[int]:
        size = self._model.info.vocab_size
        return [self._random.randrange(size // 4, size) for _ in range(count)]


def main() -> None:
    answer = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    if order.load.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, order.load.cpus)
    began = time.perf_counter()
    model = LlamaModel(order.load, lambda stage, fraction: None)
    model.warm_up()
    info = model.info
    opened = Opened(
        load_s=time.perf_counter() - began,
        layout="split" if info.kv_layout == "split" else "unified",
        slots=info.slots,
        kv_cells=info.kv_cells,
        context_cap=info.context_cap,
        n_batch=model.n_batch,
        reuse=info.reuse,
    )
    answer.write(msgspec.json.encode(opened) + b"\n")
    rig, until = _Rig(model), time.perf_counter() + order.seconds
    points = order.points
    if info.reuse != Reuse.PARTIAL:
        # A sequence can not be cut: no second step begins where the first did, but at its beginning.
        points = tuple(point for point in points if not (point.depth or point.foreign or point.copied))
    for index, wanted in enumerate(points):
        if time.perf_counter() > until and index >= _AT_LEAST:
            break
        point = rig.within(wanted, order.seconds)
        if point is None:
            continue
        found = Observation(point, tuple(rig.measure(point, _MOST_PART * order.seconds)))
        answer.write(msgspec.json.encode(found) + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
