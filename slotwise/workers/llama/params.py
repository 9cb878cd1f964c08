"""How llama.cpp is asked for a model and a context: the same way for a load as for a dry run."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import llama_cpp

from slotwise.memory.footprint import ContextShape
from slotwise.workers.protocol import LoadModel

KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
POOLING = {"mean": 1, "cls": 2, "last": 3, "rank": 4}  # llama_pooling_type
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_LOAD_MODE_NONE, _LOAD_MODE_MMAP = 0, 1


def model_params(load: LoadModel, *, dry: bool = False) -> Any:
    """`dry`: nothing is allocated (which asserts that nothing is mapped either)."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = load.n_gpu_layers
    if load.tensor_split:
        shares = (ctypes.c_float * llama_cpp.llama_max_devices())(*load.tensor_split)
        # The structure keeps the array alive.
        params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
    params.load_mode = _LOAD_MODE_MMAP if load.mmap and not dry else _LOAD_MODE_NONE
    params.no_alloc = dry
    params.use_extra_bufts = load.repacks_weights
    return params


def context_params(load: LoadModel, context: ContextShape) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context.cells
    params.n_seq_max = context.sequences
    params.kv_unified = context.unified
    params.n_batch = params.n_ubatch = context.n_batch
    params.n_outputs_max = context.outputs
    params.n_threads = params.n_threads_batch = load.threads or os.cpu_count() or 1
    params.type_k, params.type_v = KV_TYPES[context.type_k], KV_TYPES[context.type_v]
    params.flash_attn_type = FLASH_ATTENTION[load.flash_attn] if context.flash_attention else FLASH_ATTENTION["off"]
    if load.pooling:
        params.embeddings, params.pooling_type = True, POOLING[load.pooling]
    params.swa_full = context.swa_full
    params.no_perf = True
    return params
