"""What a model's workers have told since the server started, added up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from slotwise.workers.protocol import NO_PROGRESS, ModelInfo

#: Of workers that nobody had asked to stop: a signal or an exit of its own; somebody's kill; stood still; not known.
DEATH_CAUSES = ("crash", "outside", "stall", "other")


@dataclass(slots=True)
class ModelCounters:
    """What a model's workers have told since the server started."""

    info: ModelInfo | None = None
    load_stage: str = ""
    load_progress: float | None = None
    #: Of each worker: cells in use, cells retained, bytes of main memory.
    cells: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    output_tokens_total: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    steps_total: int = 0
    step_seconds_total: float = 0.0
    decode_rows_total: int = 0
    prefill_tokens_total: int = 0
    no_cells_total: int = 0
    drafted_total: int = 0
    drafts_accepted_total: int = 0
    pauses_total: int = 0
    #: Pools that were made again in another size, and how long that took.
    resizes_total: int = 0
    resize_seconds_total: float = 0.0
    #: Requests that had begun when their worker died, and went on with the next.
    continued_total: int = 0
    #: Requests that had been paused, and went on with another worker.
    moved_total: int = 0
    #: Of workers, by cause.
    deaths_total: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DEATH_CAUSES, 0))

    @property
    def cells_used(self) -> int:
        return sum(used for used, _, _ in self.cells.values())

    @property
    def cells_retained(self) -> int:
        return sum(retained for _, retained, _ in self.cells.values())

    @property
    def host_bytes(self) -> int:
        return sum(count for _, _, count in self.cells.values())


def cause_of_death(reason: str, *, from_outside: bool) -> str:
    """One of DEATH_CAUSES, by what the pool says of a death."""
    if from_outside:
        return "outside"
    if NO_PROGRESS in reason.partition(":")[0]:
        return "stall"
    return "crash" if reason.startswith(("killed by signal", "exited with code")) else "other"
