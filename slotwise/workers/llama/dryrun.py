"""The process that asks llama.cpp what loads of one file would take: `workers/dryrun` starts it.

Weights and cells are not allocated (`no_alloc`); recurrent states and the buffer of logits are. Whatever libraries
print goes to standard error; standard output has the answer alone.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import llama_cpp
import msgspec

import slotwise.workers.child  # what a worker imports is a part of what its process takes
from slotwise.memory.probe import own_bytes
from slotwise.workers.dryrun import Buffer, DryRun
from slotwise.workers.llama.breakdown import memory_breakdown
from slotwise.workers.llama.library import LoadError, NativeLog
from slotwise.workers.llama.model import layout_of
from slotwise.workers.llama.params import context_params, model_params
from slotwise.workers.protocol import LoadModel

assert slotwise.workers.child
#: A worker keeps the text of each token (`vocabulary`): a short `bytes` in a list.
_PIECE_BYTES = 64


class _Models:
    """The model of the last load is kept for the next, which mostly is of the same weights."""

    def __init__(self) -> None:
        self.log = NativeLog()
        self._key: object = None
        self._model: Any = None
        self.process_bytes = 0

    def model(self, load: LoadModel) -> Any:
        key = (load.path, load.n_gpu_layers, load.tensor_split, load.repacks_weights)
        if key != self._key:
            if self._model:
                llama_cpp.llama_model_free(self._model)
            self._key = key
            self._model = llama_cpp.llama_model_load_from_file(load.path.encode(), model_params(load, dry=True))
            self.process_bytes = own_bytes()
        if not self._model:
            raise LoadError(self.log.reason("llama.cpp could not load the file and gave no reason"))
        return self._model


def _dry_run(models: _Models, load: LoadModel) -> DryRun:
    try:
        model = models.model(load)
    except LoadError as error:
        return DryRun(error=str(error))
    layout = layout_of(model, load)
    context = llama_cpp.llama_init_from_model(model, context_params(load, layout.context))
    if not context:
        return DryRun(error=models.log.reason(f"no context of {layout.context.cells} cells could be made"))
    breakdown = memory_breakdown(context)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    output_row = vocabulary + (llama_cpp.llama_model_n_embd_out(model) if load.pooling else 0)
    cells = llama_cpp.llama_n_ctx(context)
    llama_cpp.llama_free(context)
    if breakdown is None:
        raise SystemExit("this build of llama.cpp does not say what its buffers take")
    return DryRun(
        buffers=tuple(Buffer(name, kind.weights, kind.memory, kind.compute) for name, kind in breakdown.items()),
        output_bytes=4 * layout.context.output_rows * output_row,
        process_bytes=models.process_bytes + _PIECE_BYTES * vocabulary,
        cells=cells,
        rows=layout.context.sequences,
        context_cap=layout.context_cap,
    )


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)
    loads = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[LoadModel])
    models = _Models()
    llama_cpp.llama_backend_init()
    found = [_dry_run(models, load) for load in loads]
    os.write(answer, msgspec.json.encode(found))
    os._exit(0)


if __name__ == "__main__":
    main()
