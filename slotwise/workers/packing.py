"""Which inputs go into the next batch of a model that embeds. Pure.

Whoever has had least comes next: between flows (a key, and a user of it) in tokens by their parts, and between requests
of a flow in tokens. So thousands of inputs of one do not hold up another's one for longer than a batch, and nobody is
passed over for ever: an input that does not fit into what is left of a batch is the first of the next.

References: start-time fair queueing (Goyal, Vin, Cheng 1996), with inputs as packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slotwise.workers.promptshares import Flow, parts_of
from slotwise.workers.protocol import Asker


@dataclass(slots=True, eq=False)
class Job:
    """A request and its inputs."""

    request_id: str
    inputs: list[list[int]]
    asker: Asker = Asker()
    #: So many of the inputs are computed.
    done: int = 0
    #: Tokens that it has had in batches, counted from what the least of its flow had when it came.
    had: float = field(default=0.0, init=False)
    present: bool = field(default=False, init=False)

    @property
    def tokens(self) -> int:
        """Of all its inputs."""
        return sum(map(len, self.inputs))

    @property
    def tokens_done(self) -> int:
        return sum(map(len, self.inputs[: self.done]))

    @property
    def over(self) -> bool:
        return self.done >= len(self.inputs)


class Packer:
    """Fills batches."""

    def __init__(self, budget: int, n_inputs: int) -> None:
        """A batch has at most `budget` tokens, or one input that is longer; and at most `n_inputs` inputs."""
        self._budget = budget
        self._n_inputs = n_inputs
        #: What flows have had, by their parts.
        self._had: dict[Flow, float] = {}

    def plan(self, jobs: Sequence[Job]) -> list[tuple[Job, int]]:
        """The jobs' next inputs, each as its job and its index; those of a job in order. `jobs`: all that run."""
        self._meet(jobs)
        parts = parts_of(job.asker for job in jobs)
        cursor = {job.request_id: job.done for job in jobs}
        chosen: list[tuple[Job, int]] = []
        room = self._budget
        waiting = [job for job in jobs if not job.over]
        while waiting and len(chosen) < self._n_inputs:
            fitting = [job for job in waiting if not chosen or len(job.inputs[cursor[job.request_id]]) <= room]
            if not fitting:
                break
            job = min(fitting, key=lambda job: (self._had[job.asker.flow], job.had))
            index = cursor[job.request_id]
            size = len(job.inputs[index])
            chosen.append((job, index))
            room -= size
            job.had += size
            self._had[job.asker.flow] += size / parts[job.asker.flow]
            cursor[job.request_id] = index + 1
            if index + 1 == len(job.inputs):
                waiting.remove(job)
        return chosen

    def _meet(self, jobs: Sequence[Job]) -> None:
        """Who comes has had as much as the least of those that are here; who has gone is forgotten."""
        flows = {job.asker.flow for job in jobs}
        self._had = {flow: had for flow, had in self._had.items() if flow in flows}
        least = min(self._had.values(), default=0.0)
        for flow in flows:
            self._had.setdefault(flow, least)
        for job in jobs:
            if not job.present:
                others = [one.had for one in jobs if one.present and one.asker.flow == job.asker.flow]
                job.had, job.present = min(others, default=0.0), True
