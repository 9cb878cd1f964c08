"""The seam between the front process and a worker: commands down, reports up.

Rules:
1. Every `Prepare` is answered by exactly one `Prepared` or `PrepareFailed`, unless the worker dies.
2. Every `StartSequence` is answered by exactly one terminal `Delta` (one with `finish_reason`), also after a
   `CancelSequence` (then the reason is CANCELLED, or whatever came first). Only that report gives slot and cells back.
3. `CancelSequence` is idempotent; for a prompt that is prepared but not started it forgets the prompt and says nothing.
4. `request_id` is whatever the front calls it: another one for each time that a worker is given the same request.
5. A worker that is being loaded reports `Loading` any number of times, then one of `Ready` or `StartFailed`.

The structs are the wire format (msgpack, tagged by `t`); `frames` turns them into bytes.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from slotwise.request import Constraint, Examine, Examined, FinishReason, Prompt, SamplingParams, TokenLogprob, Usage


class Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """Base of everything that crosses the pipe."""


# ---- commands: front -> worker


class NamedPrefix(msgspec.Struct, frozen=True):
    """A system prompt that is to be kept computed."""

    name: str
    system: str


class LoadModel(Message, frozen=True, tag="load"):
    """The first command: what to load and how. Sizes in tokens (= KV cells) unless said otherwise."""

    model_id: str
    path: str
    slots: int
    context_cap: int  # most tokens of one sequence; 0 = the model's training context
    kv_cells: int = 0  # of all sequences together; 0 = slots * context_cap
    #: Nobody asked for `context_cap`: where not all slots have room for it, it is to be this. 0 = it was asked for.
    context_fallback: int = 0
    n_batch: int = 512
    n_gpu_layers: int = 0
    #: Which part of these layers each GPU gets, of those that the worker sees; none: as llama.cpp decides.
    tensor_split: tuple[float, ...] = ()
    threads: int = 0  # 0 = physical cores
    gpu: int = -1  # the only one that is used; -1 = all there are
    cpus: tuple[int, ...] = ()  # that it may use; none = all
    kv_type: str = "f16"
    flash_attn: str = "auto"
    #: Repacked weight buffers (AMX, NEON …). Off after a crash in the first decode; see BUILDING notes on AMX.
    use_extra_bufts: bool = True
    #: Weights are the file's own pages. Where they are repacked, those would be resident beside them for nothing.
    mmap: bool = True
    #: The same bits for a sequence whatever runs beside it (CPU). Needs `kv_type` bf16 or q8_0.
    reproducible: bool = False
    #: "unified", "split", or "auto": see `workers/cells`.
    kv_layout: str = "auto"
    #: Seconds that a step with prompt tokens may take beside answers; 0 = as many prompt tokens as fit.
    itl_target: float = 0.35
    #: Check tokens that the request's own text suggests, where that is faster: see `workers/speculation`.
    speculation: bool = True
    #: See `workers/warm`; the folder where they are kept, or "".
    prefixes: tuple[NamedPrefix, ...] = ()
    prefix_cache: str = ""
    #: Main memory for what ended requests left and others pushed out of the context.
    host_bytes: int = 0
    #: What is made of the tokens' vectors: "mean", "cls", "last" or "rank". "": the model writes text.
    pooling: str = ""

    @property
    def repacks_weights(self) -> bool:
        """Repacked weights have other kernels for one row than for many: not where answers are to be reproducible."""
        return self.use_extra_bufts and not self.reproducible


class Prepare(Message, frozen=True, tag="prepare"):
    """Render and tokenise a prompt and keep its tokens until it is started or cancelled."""

    request_id: str
    prompt: Prompt
    #: The tokens are wanted in front as well: the prompt may be started on another worker of the model.
    tell_tokens: bool = False
    #: It is not to be started: only this is wanted, and nothing is kept.
    examine: Examine | None = None
    #: What the answer will be held to: it is compiled beside the steps, or refused.
    constraint: Constraint | None = None


class Asker(msgspec.Struct, frozen=True, array_like=True):
    """Whose request it is: an API key, and an end user behind it; with the key's weight, and the class of the request
    (higher is served first)."""

    key: str = ""
    user: str = ""
    weight: float = 1.0
    level: int = 0

    @property
    def flow(self) -> tuple[str, str]:
        return self.key, self.user


class StartSequence(Message, frozen=True, tag="start"):
    """Run a prompt that was prepared here, or whose tokens come along. The scheduler has reserved a slot and cells for
    it: enough for the prompt and a part of the answer. Where these end it stands still until it is given more."""

    request_id: str
    max_output_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    #: Only sequences of the same scope share what they have computed.
    scope: str = ""
    #: Output tokens that a worker before this one has reported: the answer goes on after them. They count in
    #: `max_output_tokens` and in the usage, and their text is not said again.
    generated: tuple[int, ...] = ()
    #: 0 = the whole answer's.
    cells: int = 0
    #: Of a prompt that another worker prepared; and of its inputs, if it is several, how many tokens each has.
    prompt: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    #: Inputs that a worker before this one has reported: their vectors are not computed again.
    inputs_done: int = 0
    #: Who shares the time for prompts with whom: see `workers/promptshares`.
    asker: Asker = Asker()
    #: Log probabilities are wanted, with those of so many likeliest tokens in each one's place.
    top_logprobs: int | None = None
    #: Special tokens of the answer are text, but for those that end it.
    special_text: bool = False
    constraint: Constraint | None = None


class ExtendSequence(Message, frozen=True, tag="extend"):
    """A running sequence may hold so many cells from now on, more than before."""

    request_id: str
    cells: int


class PauseSequence(Message, frozen=True, tag="pause"):
    """Take a running sequence out after this step, and keep what it has as others' room allows: slot and cells are
    somebody else's from now on. It stays as it is until it is resumed or cancelled."""

    request_id: str


class ResumeSequence(Message, frozen=True, tag="resume"):
    """Let a paused sequence go on. The scheduler has reserved a slot and cells again."""

    request_id: str
    #: 0 = the whole answer's.
    cells: int = 0


class ResizePool(Message, frozen=True, tag="resize"):
    """Make the context again with so many cells, which all promises together do not exceed. Sequences go on afterwards,
    where they are. Answered by one `Resized`."""

    cells: int


class CancelSequence(Message, frozen=True, tag="cancel"):
    request_id: str


class Shutdown(Message, frozen=True, tag="shutdown"):
    """Cancel what runs and exit."""


Command = (
    LoadModel
    | Prepare
    | StartSequence
    | ExtendSequence
    | PauseSequence
    | ResumeSequence
    | ResizePool
    | CancelSequence
    | Shutdown
)


# ---- reports: worker -> front


class ModelInfo(msgspec.Struct, frozen=True):
    """What a loaded worker offers."""

    architecture: str
    slots: int
    kv_cells: int
    context_cap: int
    context_train: int
    vocab_size: int
    n_params: int
    size_bytes: int
    has_chat_template: bool
    use_extra_bufts: bool = True
    #: "unified": one pool of cells, `rows` sequence rows. "split": a pool for each slot.
    kv_layout: str = "unified"
    rows: int = 0
    #: What another sequence may take over: see `cells.Reuse`.
    reuse: str = "partial"
    #: Drafted tokens that a step can check; 0 where a sequence can not go back.
    draft_rows: int = 0
    #: Layers are on a GPU: a pass over the weights is what a step costs.
    offloaded: bool = False
    #: As of the load; and how many numbers a vector has.
    pooling: str = ""
    vector_length: int = 0


class Loading(Message, frozen=True, tag="loading"):
    """Progress of a load, 0..1. `stage` is "weights" | "context" | "warm-up" | "prefixes"."""

    stage: str
    progress: float


class Ready(Message, frozen=True, tag="ready"):
    info: ModelInfo


class StartFailed(Message, frozen=True, tag="start_failed"):
    """The model can not be loaded; `reason` is the library's own words where it said any."""

    reason: str


class Resized(Message, frozen=True, tag="resized"):
    """What the worker offers now; not `done`: the context that was asked for could not be made, and is as before."""

    info: ModelInfo
    done: bool
    seconds: float
    #: Sequences that went on from what they had stored, and those of which something is computed again.
    moved: int = 0
    computed_again: int = 0


class Prepared(Message, frozen=True, tag="prepared"):
    request_id: str
    prompt_tokens: int
    #: Where they were asked for.
    tokens: tuple[int, ...] = ()
    #: What the template has written of the answer: a thought that is opened (`<think>`).
    opening: str = ""
    examined: Examined | None = None
    #: Of each input, where a prompt is several: no cells are kept for these.
    lengths: tuple[int, ...] = ()


class PrepareFailed(Message, frozen=True, tag="prepare_failed"):
    """The prompt can not be used: the client's fault (400) with the field that is wrong."""

    request_id: str
    message: str
    param: str | None = None
    code: str = "invalid_value"


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step did for one sequence."""

    request_id: str
    text: str = ""
    #: Output tokens, one that ends the answer included. Text that may become a stop string is held back, so it may be
    #: of fewer.
    tokens: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: str | None = None  # with FinishReason.ERROR
    #: The error is about what the client's own constraint says, and not about the model.
    refused: bool = False
    #: With FinishReason.STOP: the stop string that ended it, if it was not the model itself.
    stopped_by: str | None = None
    #: Of each of the tokens that does not end the answer, where they are wanted; and of how many tokens, those of
    #: earlier steps first, the text is told by now. The rest is told with its text, by whichever worker says it.
    logprobs: tuple[TokenLogprob, ...] = ()
    logprobs_told: int = 0
    #: Of the next of its inputs: float32, little-endian.
    vectors: tuple[bytes, ...] = ()


class StepReport(Message, frozen=True, tag="step"):
    """One per step for all sequences, so that the hop costs the same at 1 and at 64 users."""

    deltas: tuple[Delta, ...]
    decode_rows: int = 0
    prefill_tokens: int = 0
    seconds: float = 0.0
    cells_used: int = 0
    #: Cells of ended sequences only, kept for those who begin alike; given up when somebody needs them.
    cells_retained: int = 0
    #: Main memory in use for what was pushed out of the context.
    host_bytes: int = 0
    #: Times `llama_decode` returned 1 (no cells) in this step. Admitted traffic keeps it at 0.
    no_cells: int = 0
    #: Drafted tokens that were checked, and how many of them were right.
    drafted: int = 0
    drafts_accepted: int = 0
    #: What `seconds` was taken to be before the step; 0 = nothing was known of one like it.
    predicted: float = 0.0


Report = Loading | Ready | StartFailed | Resized | Prepared | PrepareFailed | StepReport


# ---- the parent's side


#: A worker that could not make a context again ends so: other programs have taken the memory, no request is to blame.
EXIT_CONTEXT_LOST = 75
#: One whose model is broken, or that failed otherwise, ends so.
EXIT_MODEL_BROKEN = 70
#: In the reason of a worker that was ended because it stood still.
NO_PROGRESS = "made no progress"


class PoolListener(Protocol):
    """Who hears from the workers. Called on the event loop, one call at a time, never from inside a pool method."""

    def worker_report(self, worker_id: int, report: Report) -> None: ...

    def worker_lost(self, worker_id: int, reason: str, *, from_outside: bool = False) -> None:
        """The process is gone (after `Ready`, or before it without a `StartFailed`). Nothing follows for this id.

        `from_outside`: it was killed by a signal that neither it nor this server sent (`kill -9`, the OOM killer).
        """


class WorkerPool(Protocol):
    """Real processes, or a fake in memory. All methods return at once; results come to the listener.

    Worker ids are chosen by the caller, never reused: an id is one incarnation of one model's worker.
    """

    def start(self, worker_id: int, load: LoadModel) -> None: ...

    def send(self, worker_id: int, command: Command) -> None:
        """Queue a command. Commands to a worker that is gone are dropped: `worker_lost` has been or will be told."""

    def stop(self, worker_id: int) -> None:
        """Ask to exit, then insist. `worker_lost` follows when the process is gone."""
