"""What happened (past tense) and what to do (imperative), as plain frozen values.

Events go into `Scheduler.handle(event, now)`, actions come out. Neither holds a reference to a task, stream or process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slotwise.errors import SlotwiseError
from slotwise.scheduler.affinity import Marks
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.shares import Flow

# ---- events


@dataclass(frozen=True, slots=True)
class RequestSubmitted:
    """A request passed the HTTP edge."""

    request_id: str
    model: str
    max_output_tokens: int | None
    flow: Flow = Flow("")
    #: The class that it asks for; None = its key's.
    priority: Priority | None = None
    #: What it is priced by until its prompt is tokenised.
    prompt_characters: int = 0
    #: Seconds that it may wait for its turn; None = as configured.
    max_wait_s: float | None = None
    #: Seconds after which nobody waits for it any more; None = not known.
    patience_s: float | None = None
    #: How its prompt begins (`affinity`); for models with more than one worker.
    marks: Marks = ()
    #: Seconds without a request after which its model is unloaded, `math.inf` for never; None = as before.
    keep_alive_s: float | None = None
    #: It wants to know what its prompt becomes, and no answer: it is over when the tokenizer is through with it.
    counts: bool = False
    #: Its answer is held to a grammar, which is compiled before it is priced: beside other prompts.
    constrained: bool = False


@dataclass(frozen=True, slots=True)
class Longest:
    """Of several inputs that are computed each on its own: how many tokens the longest has, which it is, and how the
    request calls it."""

    tokens: int
    index: int = 0
    name: str = "input"


@dataclass(frozen=True, slots=True)
class RequestPriced:
    """The worker has rendered and tokenised the prompt."""

    request_id: str
    prompt_tokens: int
    #: The prompt is such inputs: they are computed batch by batch, and no cells are kept for them.
    longest: Longest | None = None


@dataclass(frozen=True, slots=True)
class PrepareRefused:
    """The worker could not use the prompt: the request ends with this error."""

    request_id: str
    error: SlotwiseError


@dataclass(frozen=True, slots=True)
class SequenceFinished:
    """The worker's terminal report: slot and cells are free again. What it took feeds the forecasts."""

    request_id: str
    prompt_tokens: int = 0
    #: Of them, taken from cells instead of computed.
    cached_tokens: int = 0
    output_tokens: int = 0
    #: The answer came to its own end, by a stop or by its limit.
    complete: bool = False
    #: It failed.
    failed: bool = False


@dataclass(frozen=True, slots=True)
class StepDone:
    """A worker computed a batch, or `steps` of them that were alike: what tokens cost is learned from it."""

    worker_id: int
    #: Of each step, and so are prompt tokens, seconds and drafts.
    decode_rows: int
    prompt_tokens: int
    #: Output tokens that requests got, in all steps together.
    outputs: tuple[tuple[str, int], ...]
    seconds: float
    #: Rows of guesses that were checked beside them.
    drafted: int = 0
    #: Inputs of requests of which the vectors came.
    inputs: tuple[tuple[str, int], ...] = ()
    steps: int = 1


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """Whoever asked has left. Safe to send at any time, also twice, also for a request that is gone."""

    request_id: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    worker_id: int
    slots: int
    kv_cells: int
    context_cap: int


@dataclass(frozen=True, slots=True)
class PoolResized:
    """What a worker has now; not `done`: it is as it was."""

    worker_id: int
    kv_cells: int
    context_cap: int
    done: bool = True


@dataclass(frozen=True, slots=True)
class WorkerStartFailed:
    """The load failed for a reason that another try would meet again. Final for the model."""

    worker_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The process is gone, whatever the reason: crash, kill, or the end of a stop we asked for.

    `from_outside`: somebody killed it who is neither it nor we: no request is to blame.
    """

    worker_id: int
    reason: str
    from_outside: bool = False


@dataclass(frozen=True, slots=True)
class PreloadRequested:
    """Load a model before anybody asks for it, and then others: one is not made so large that there is no room for
    them."""

    model: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnloadRequested:
    """Give a model's memory back as soon as nobody uses it: what runs and what waits is served first. A pinned one
    stays."""

    model: str


@dataclass(frozen=True, slots=True)
class MemorySeen:
    """What all models together may take of each device now: other programs take memory, and give it back."""

    budgets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Take nothing new, refuse what waits, let running sequences end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; sent when `next_deadline()` is reached."""


Event = (
    RequestSubmitted
    | RequestPriced
    | PrepareRefused
    | SequenceFinished
    | StepDone
    | RequestCancelled
    | WorkerReady
    | WorkerStartFailed
    | PoolResized
    | WorkerLost
    | PreloadRequested
    | UnloadRequested
    | MemorySeen
    | DrainRequested
    | Tick
)

# ---- actions


@dataclass(frozen=True, slots=True)
class PreparePrompt:
    """Have the worker render and tokenise the prompt, and answer with RequestPriced or PrepareRefused."""

    request_id: str
    worker_id: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Slot and cells are reserved: start the sequence with at most this many output tokens. More cells may follow.

    The worker need not be the one that tokenised the prompt."""

    request_id: str
    worker_id: int
    max_output_tokens: int
    cells: int
    #: Of its key, beside others; and the class that it counts as.
    weight: float = 1.0
    level: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class ExtendSequence:
    """A running sequence has so many cells from now on."""

    request_id: str
    worker_id: int
    cells: int


@dataclass(frozen=True, slots=True)
class PauseSequence:
    """Take a running sequence out: its slot and cells are given to somebody else at once, in the actions after this."""

    request_id: str
    worker_id: int


@dataclass(frozen=True, slots=True)
class ResumeSequence:
    """Slot and cells are reserved again for a sequence that was paused on this worker: let it go on."""

    request_id: str
    worker_id: int
    cells: int


@dataclass(frozen=True, slots=True)
class EndRequest:
    """The request is over with this error: refused, failed, or refused as poison. Nothing follows for it."""

    request_id: str
    error: SlotwiseError


@dataclass(frozen=True, slots=True)
class BookUsage:
    """What one request took, once it is over, however it ended."""

    request_id: str
    flow: Flow
    model: str
    outcome: str  # completed | cancelled | failed | refused (it had nothing)
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    #: Seconds in which it had no slot, and in which it had one.
    queue_s: float
    run_s: float


@dataclass(frozen=True, slots=True)
class CancelSequence:
    """Tell the worker to stop (or forget) it. A running one still holds its slot until SequenceFinished."""

    request_id: str
    worker_id: int


@dataclass(frozen=True, slots=True)
class StartWorker:
    worker_id: int
    model: str
    #: Which of the model's places it is for.
    replica: int = 0
    #: Of its pool; 0 = as configured.
    cells: int = 0


@dataclass(frozen=True, slots=True)
class StopWorker:
    worker_id: int


@dataclass(frozen=True, slots=True)
class ResizePool:
    """Have the worker make its context again with so many cells; PoolResized follows. What runs there goes on."""

    worker_id: int
    cells: int


Action = (
    PreparePrompt
    | Grant
    | ExtendSequence
    | PauseSequence
    | ResumeSequence
    | EndRequest
    | BookUsage
    | CancelSequence
    | StartWorker
    | StopWorker
    | ResizePool
)
