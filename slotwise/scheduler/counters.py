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
    cells_used: int = 0
    cells_retained: int = 0
    host_bytes: int = 0
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
    #: Requests that had begun when their worker died, and went on with the next.
    continued_total: int = 0
    #: Of workers, by cause.
    deaths_total: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DEATH_CAUSES, 0))


def cause_of_death(reason: str, *, from_outside: bool) -> str:
    """One of DEATH_CAUSES, by what the pool says of a death."""
    if from_outside:
        return "outside"
    if NO_PROGRESS in reason.partition(":")[0]:
        return "stall"
    return "crash" if reason.startswith(("killed by signal", "exited with code")) else "other"
