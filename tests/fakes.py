"""An in-memory `WorkerPool`: records what it is told and lets a test say what workers report."""

import anyio

from slotwise.request import Examined, FinishReason, TokenLogprob, Usage
from slotwise.workers.protocol import (
    CancelSequence,
    Command,
    Delta,
    LoadModel,
    ModelInfo,
    PoolListener,
    Prepare,
    Prepared,
    Ready,
    StartSequence,
    StepReport,
)


class FakePool:
    """A pool whose workers do what the test says."""

    def __init__(self) -> None:
        self.listener: PoolListener | None = None
        self.loads: dict[int, LoadModel] = {}
        self.sent: list[tuple[int, Command]] = []
        self.stopped: list[int] = []
        self._started = anyio.Event()

    # ---- WorkerPool

    def start(self, worker_id: int, load: LoadModel) -> None:
        assert worker_id not in self.loads, "worker ids are never reused"
        self.loads[worker_id] = load
        self._started.set()
        self._started = anyio.Event()

    def send(self, worker_id: int, command: Command) -> None:
        self.sent.append((worker_id, command))

    def stop(self, worker_id: int) -> None:
        self.stopped.append(worker_id)

    # ---- what a test does

    def hears(self) -> PoolListener:
        assert self.listener is not None
        return self.listener

    async def started(self, worker_id: int) -> None:
        """Until the scheduler has asked for this worker."""
        while worker_id not in self.loads:
            await self._started.wait()

    def ready(self, worker_id: int = 1, slots: int = 2, kv_cells: int = 100, context_cap: int = 50) -> None:
        info = ModelInfo("fake", slots, kv_cells, context_cap, 8192, 257, 0, 0, True)
        self.hears().worker_report(worker_id, Ready(info))

    def prepared(
        self,
        request_id: str,
        tokens: int = 5,
        worker_id: int = 1,
        *,
        opening: str = "",
        examined: Examined | None = None,
    ) -> None:
        report = Prepared(request_id, tokens, opening=opening, examined=examined)
        self.hears().worker_report(worker_id, report)

    def delta(
        self,
        request_id: str,
        text: str,
        worker_id: int = 1,
        logprobs: tuple[TokenLogprob, ...] = (),
        told: int = 0,
    ) -> None:
        delta = Delta(request_id, text, (120,), logprobs=logprobs, logprobs_told=told)
        self.hears().worker_report(worker_id, StepReport((delta,), decode_rows=1))

    def end(self, request_id: str, reason: FinishReason = FinishReason.STOP, worker_id: int = 1) -> None:
        delta = Delta(request_id, "", (121,), reason, Usage(5, 3))
        self.hears().worker_report(worker_id, StepReport((delta,), decode_rows=1))

    def commands(self, kind: type[Command]) -> list[str]:
        """Request ids of the commands of one kind, in order."""
        return [
            command.request_id
            for _, command in self.sent
            if isinstance(command, kind) and isinstance(command, Prepare | StartSequence | CancelSequence)
        ]
