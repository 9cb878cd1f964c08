"""The step loop of a worker whose model embeds: commands in, one batch per step, one report per step out.

The same rules as of `loop`. A request is a list of inputs; each is computed whole, in one batch, beside those of other
requests (`packing`), and forgotten when its vector is told. A request that another worker has begun goes on with the
first input that it has no vector of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from slotwise.request import FinishReason, Usage
from slotwise.workers.loop import ModelBroken
from slotwise.workers.model import Embedder, EmbeddingFailed
from slotwise.workers.packing import Job, Packer
from slotwise.workers.protocol import Delta, Resized, ResumeSequence, StartSequence, StepReport

#: An input of a batch, its vector, or why there is none.
_Outcome = tuple[Job, bytes | None, str]


class EmbedLoop:
    """Batches over one model that embeds."""

    def __init__(self, model: Embedder, *, budget: int, timer: Callable[[], float] = time.perf_counter) -> None:
        """`budget`: tokens of a batch, of which a longer input is one alone."""
        self._model = model
        self._timer = timer
        self._packer = Packer(min(budget, model.n_batch), model.n_inputs)
        #: In order of arrival.
        self._running: list[Job] = []
        self._paused: dict[str, Job] = {}
        self._prompts: dict[str, list[list[int]]] = {}
        #: Terminal deltas that no step has reported yet.
        self._ended: list[Delta] = []
        self._failures = 0

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to tell."""
        return not self._ended and not self._running

    def prepared(self, request_id: str, inputs: list[list[int]]) -> None:
        """Keep the inputs' tokens until they are started or cancelled."""
        self._prompts[request_id] = inputs

    def start(self, command: StartSequence) -> None:
        """Begin a prepared request; it takes part from the next step on."""
        inputs = self._prompts.pop(command.request_id, None) or _apart(command.prompt, command.lengths)
        job = Job(command.request_id, inputs, command.asker, done=command.inputs_done)
        if not inputs or not all(inputs):
            self._ended.append(_failure(job, "the inputs were not prepared on this worker"))
        elif (longest := max(map(len, inputs))) > self._model.n_batch:
            # llama.cpp would abort.
            said = f"an input of {longest} tokens is over {self._model.n_batch}"
            self._ended.append(_failure(job, said))
        elif job.over:
            self._ended.append(_terminal(job, FinishReason.STOP))
        else:
            self._running.append(job)

    def pause(self, request_id: str) -> None:
        """Take a request out, with what it has. Anything else is not an error: it may have ended in the last step."""
        if job := self._take(request_id):
            self._paused[request_id] = job

    def resume(self, command: ResumeSequence) -> None:
        job = self._paused.pop(command.request_id, None)
        if job is None:
            failed = Job(command.request_id, [])
            self._ended.append(_failure(failed, "it was not paused on this worker"))
        else:
            job.present = False
            self._running.append(job)

    def resize(self, cells: int) -> Resized:
        """There is one size of context only: that of a batch."""
        return Resized(self._model.info, False, 0.0)

    def cancel(self, request_id: str) -> None:
        """End a request, or forget a prepared one. Anything else is not an error."""
        self._prompts.pop(request_id, None)
        job = self._paused.pop(request_id, None) or self._take(request_id)
        if job is not None:
            self._ended.append(_terminal(job, FinishReason.CANCELLED))

    def step(self) -> StepReport:
        """Compute one batch (if anything runs) and report what it did.

        Raises:
            ModelBroken: the second failure in a row.
        """
        started = self._timer()
        deltas, self._ended = self._ended, []
        batch = self._packer.plan(self._running)
        outcomes = self._compute(batch) if batch else []
        deltas += self._tell(outcomes)
        tokens = sum(len(job.inputs[index]) for job, index in batch) if outcomes else 0
        return StepReport(tuple(deltas), prefill_tokens=tokens, seconds=self._timer() - started)

    def close(self) -> None:
        """Forget everything: the process is about to end."""
        self._running.clear()
        self._paused.clear()

    def check_invariants(self) -> None:
        names = [job.request_id for job in self._running]
        assert len(set(names)) == len(names)
        assert not set(names) & self._paused.keys()
        assert all(0 <= job.done < len(job.inputs) for job in self._running)

    def _take(self, request_id: str) -> Job | None:
        for job in self._running:
            if job.request_id == request_id:
                self._running.remove(job)
                return job
        return None

    # ---- computing

    def _compute(self, batch: Sequence[tuple[Job, int]]) -> list[_Outcome]:
        """The vectors of a batch; none of them where it is to be tried again."""
        inputs = [job.inputs[index] for job, index in batch]
        try:
            vectors = self._model.embed(inputs)
        except EmbeddingFailed as failure:
            self._failed(failure)
            # Refused, or without room: one of them is to blame, which is found by itself.
            return [self._alone(job, index) for job, index in batch] if failure.code in (1, -1) else []
        self._failures = 0
        return [_outcome(job, vector) for (job, _), vector in zip(batch, vectors, strict=True)]

    def _alone(self, job: Job, index: int) -> _Outcome:
        try:
            vectors = self._model.embed([job.inputs[index]])
        except EmbeddingFailed as failure:
            self._failed(failure)
            return job, None, f"llama_decode refused input {index} (code {failure.code})"
        self._failures = 0
        return _outcome(job, vectors[0])

    def _failed(self, failure: EmbeddingFailed) -> None:
        self._failures += 1
        if self._failures > 1 and failure.code < -1:
            raise ModelBroken(f"llama_decode failed twice in a row (code {failure.code})")

    # ---- telling

    def _tell(self, outcomes: Sequence[_Outcome]) -> list[Delta]:
        """One delta for each job that something became of."""
        vectors: dict[Job, list[bytes]] = {}
        failed: dict[Job, str] = {}
        for job, vector, error in outcomes:
            if vector is None:
                failed.setdefault(job, error)
            else:
                vectors.setdefault(job, []).append(vector)
        deltas = [_failure(job, error) for job, error in failed.items()]
        for job, of_job in vectors.items():
            if job in failed:
                continue
            job.done += len(of_job)
            if job.over:
                deltas.append(_terminal(job, FinishReason.STOP, tuple(of_job)))
            else:
                deltas.append(Delta(job.request_id, vectors=tuple(of_job)))
        self._running = [job for job in self._running if job not in failed and not job.over]
        return deltas


def _outcome(job: Job, vector: bytes | None) -> _Outcome:
    return job, vector, "" if vector else "the model gave no finite numbers"


def _apart(tokens: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Inputs that came one after the other."""
    inputs, start = [], 0
    for length in lengths:
        inputs.append(list(tokens[start : start + length]))
        start += length
    return inputs


def _terminal(job: Job, reason: FinishReason, vectors: tuple[bytes, ...] = ()) -> Delta:
    usage = Usage(prompt_tokens=job.tokens_done, completion_tokens=0)
    return Delta(job.request_id, finish_reason=reason, usage=usage, vectors=vectors)


def _failure(job: Job, error: str) -> Delta:
    return Delta(job.request_id, finish_reason=FinishReason.ERROR, error=error)
