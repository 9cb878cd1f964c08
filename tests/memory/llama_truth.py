"""What llama.cpp allocates for models and contexts: a process of its own, since bad metadata may end it.

Standard input: a JSON list of `{"metadata": path, "file": path, "contexts": [{...}]}`, of a file without tensors, where
to write the model that llama.cpp makes of it, and `ContextShape`s. For each a line of JSON comes back: a list of what
contexts took, or null where there was no model.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp

from slotwise.workers.llama.breakdown import memory_breakdown
from slotwise.workers.llama.params import FLASH_ATTENTION, KV_TYPES

_BASE = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


_BASE.gguf_init_from_file.restype = ctypes.c_void_p
_BASE.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _data: object) -> None:
    if level >= 4:
        sys.stderr.buffer.write(text)


@llama_cpp.llama_cpp.llama_model_set_tensor_data_t  # type: ignore[untyped-decorator]
def _leave_as_it_is(_tensor: object, _data: object) -> None:
    pass


def _model(metadata: str) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False
    described = _BASE.gguf_init_from_file(metadata.encode(), _InitParams(True, None))
    return llama_cpp.llama_model_init_from_user(described, _leave_as_it_is, None, params)


def _loaded(file: str) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False
    params.load_mode = 0
    return llama_cpp.llama_model_load_from_file(file.encode(), params)


def _context(model: Any, shape: dict[str, Any]) -> dict[str, Any]:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max = shape["cells"], shape["sequences"]
    params.kv_unified, params.swa_full = shape["unified"], shape["swa_full"]
    params.n_batch = params.n_ubatch = shape["n_batch"]
    params.n_outputs_max = shape["outputs"]
    params.type_k, params.type_v = KV_TYPES[shape["type_k"]], KV_TYPES[shape["type_v"]]
    params.flash_attn_type = FLASH_ATTENTION["auto" if shape["flash_attention"] else "off"]
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        return {"refused": True}
    breakdown = memory_breakdown(context)
    assert breakdown is not None
    found = {
        "weights": sum(kind.weights for kind in breakdown.values()),
        "memory": sum(kind.memory for kind in breakdown.values()),
        "compute": sum(kind.compute for kind in breakdown.values()),
        "cells": llama_cpp.llama_n_ctx(context),
    }
    llama_cpp.llama_free(context)
    return found


def main() -> None:
    llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    for case in json.load(sys.stdin):
        model = _model(case["metadata"])
        if model and case["saves"]:
            llama_cpp.llama_model_save_to_file(model, case["file"].encode())
            llama_cpp.llama_model_free(model)
            model = _loaded(case["file"])
        found = [_context(model, shape) for shape in case["contexts"]] if model else None
        print(json.dumps(found), flush=True)  # noqa: T201
        if model:
            llama_cpp.llama_model_free(model)


if __name__ == "__main__":
    main()
