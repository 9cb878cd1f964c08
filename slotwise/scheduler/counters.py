"""What a model's workers have told since the server started, added up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from slotwise.workers.protocol import NO_PROGRESS, ModelInfo, StepReport

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
    #: Steps with answers in them, and those that took longer than the target for them.
    answer_steps_total: int = 0
    slow_steps_total: int = 0
    #: Steps whose time was predicted: how many, what was predicted, what they took, and by how much each was off.
    predicted_steps_total: int = 0
    step_predicted_seconds_total: float = 0.0
    predicted_steps_seconds_total: float = 0.0
    step_prediction_error_seconds_total: float = 0.0
    drafted_total: int = 0
    drafts_accepted_total: int = 0
    pauses_total: int = 0
    #: Workers that became ready, and how long that took them.
    loads_total: int = 0
    load_seconds_total: float = 0.0
    #: Pools that were made again in another size, and how long that took.
    resizes_total: int = 0
    resize_seconds_total: float = 0.0
    #: Requests that had begun when their worker died, and went on with the next.
    continued_total: int = 0
    #: Requests that had been paused, and went on with another worker.
    moved_total: int = 0
    #: Of workers, by cause.
    deaths_total: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DEATH_CAUSES, 0))

    def stepped(self, worker_id: int, report: StepReport, itl_target: float) -> None:
        """A worker computed a batch. `itl_target`: seconds that one with answers should take at most; 0 = any."""
        self.steps_total += 1
        self.step_seconds_total += report.seconds
        self.decode_rows_total += report.decode_rows
        self.prefill_tokens_total += report.prefill_tokens
        self.no_cells_total += report.no_cells
        self.drafted_total += report.drafted
        self.drafts_accepted_total += report.drafts_accepted
        if report.decode_rows:
            self.answer_steps_total += 1
            self.slow_steps_total += 0 < itl_target < report.seconds
        if report.predicted:
            self.predicted_steps_total += 1
            self.step_predicted_seconds_total += report.predicted
            self.predicted_steps_seconds_total += report.seconds
            self.step_prediction_error_seconds_total += abs(report.seconds - report.predicted)
        self.cells[worker_id] = report.cells_used, report.cells_retained, report.host_bytes

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
