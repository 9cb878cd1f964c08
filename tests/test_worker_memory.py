"""The whole of a worker's process, at its peak, against what was reserved for it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import httpx
import numpy as np
import pytest

from slotwise.config import load_settings
from slotwise.loads import demo_model_path, model_loads
from slotwise.needs import SCHEMAS_BYTES, ModelFile
from tests.server_process import ServerProcess, run_server
from tests.tiny_models import add_vocabulary

pytestmark = pytest.mark.model

#: Over what was measured: none of it is for luck, so more would be somebody else's memory.
MOST_OVER = 0.03
#: Prompts fill the largest batches: else not all of the buffers for computing would be used. Nor would be the rows of
#: logits for drafts, which come where they pay: there are none.
SLOTS, CONTEXT, BATCH = 4, 512, 128


def _big_model(path: Path, *, width: int, layers: int, feed_forward: int, quantised: bool) -> str:
    """Random weights of a llama with 64 elements a head, a quarter of the heads for keys and values."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(width // 64)
    writer.add_head_count_kv(width // 256)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = add_vocabulary(writer)
    rng = np.random.default_rng(1)

    def weights(name: str, rows: int, columns: int) -> None:
        values = (rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)).astype(np.float16)
        if quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values.astype(np.float32), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    weights("token_embd.weight", vocabulary, width)
    weights("output.weight", vocabulary, width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for index in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{index}.{norm}.weight", np.ones(width, np.float32))
        for name, rows in (("q", width), ("k", width // 4), ("v", width // 4), ("output", width)):
            weights(f"blk.{index}.attn_{name}.weight", rows, width)
        weights(f"blk.{index}.ffn_gate.weight", feed_forward, width)
        weights(f"blk.{index}.ffn_up.weight", feed_forward, width)
        weights(f"blk.{index}.ffn_down.weight", width, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def _peak_bytes(server: ServerProcess) -> int:
    """Of the worker: the most that was resident at any time (VmHWM of proc(5)), pages of the file included."""
    (worker,) = server.workers()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _fill(server: ServerProcess, characters: int) -> None:
    """All slots compute a long prompt, one beside another and then all of them at once."""
    model = server.model()["model"]

    def ask(number: int) -> None:
        prompt = f"{number} " + "stone river lamp " * (characters // 17)
        body = {"model": model, "prompt": prompt, "max_tokens": 64, "ignore_eos": True}
        httpx.post(f"{server.base_url}/completions", json=body, timeout=600).raise_for_status()

    ask(SLOTS)
    with ThreadPoolExecutor(SLOTS) as people:
        list(people.map(ask, range(SLOTS)))


def _chat_in_turn(server: ServerProcess, characters: int) -> None:
    """More chats than the cells hold: those that were pushed out are kept beside them, until others push them out."""
    model = server.model()["model"]
    for number in range(16):
        body = {"model": model, "prompt": f"{number} " + f"tree {number} house " * (characters // 14), "max_tokens": 2}
        httpx.post(f"{server.base_url}/completions", json=body, timeout=600).raise_for_status()


def _reserved_and_peak(
    path: str,
    tmp_path: Path,
    characters: int,
    *options: str,
    cache: int = 0,
    cells: int = 0,
    context: int = CONTEXT,
    batch: int = BATCH,
) -> tuple[int, int]:
    flags = {
        "models": [path],
        "num_parallel": SLOTS,
        "context": context,
        "cache_ram": cache,
        "kv_cells": cells,
        "n_batch": batch,
        "speculation": False,
    }
    flags |= {"kv_layout": "unified"} if "unified" in options else {}
    (loads,) = model_loads(load_settings(flags, environment={})).values()
    (need,) = ModelFile(path).needs([loads[0]])
    arguments = ["--num-parallel", str(SLOTS), "--context", str(context), "--cache-ram", str(cache), "--preload"]
    arguments += ["--n-batch", str(batch), "--no-speculation", "--kv-cells", str(cells), *options]
    with run_server(tmp_path / "log", path, *arguments) as server:
        _fill(server, characters)
        if cache:
            _chat_in_turn(server, characters)
        peak = _peak_bytes(server)
    reserved = need.host - SCHEMAS_BYTES  # nobody asks with a schema
    print(f"\nreserved {reserved / 1e6:.1f}, peak {peak / 1e6:.1f} MB: {reserved / peak - 1:+.2%}")  # noqa: T201
    return reserved, peak


@pytest.mark.parametrize(
    "options",
    [pytest.param((), id="split"), pytest.param(("--kv-layout", "unified"), id="unified", marks=pytest.mark.slow)],
)
def test_the_demo_model(tmp_path: Path, options: tuple[str, ...]) -> None:
    reserved, peak = _reserved_and_peak(demo_model_path(), tmp_path, 3 * CONTEXT, *options)

    assert peak <= reserved <= peak * (1 + MOST_OVER)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_scores_of_long_contexts(tmp_path: Path) -> None:
    """Without the flash kernel: they are in a buffer that llama.cpp tells of, and once more in one that it does not."""
    reserved, peak = _reserved_and_peak(demo_model_path(), tmp_path, 5 * 4096, context=4096, batch=512)

    assert peak <= reserved <= peak * (1 + MOST_OVER)


def test_chats_kept_in_main_memory(tmp_path: Path) -> None:
    reserved, peak = _reserved_and_peak(demo_model_path(), tmp_path, CONTEXT, cache=24 * 2**20, cells=2 * CONTEXT)

    assert peak <= reserved <= peak * (1 + MOST_OVER)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("width", "layers", "feed_forward", "quantised"),
    [(1024, 22, 2816, True), (2048, 22, 5632, True), (2048, 32, 5632, False)],
    ids=["0.3 GB", "1.1 GB", "3 GB"],
)
def test_models_with_random_weights(
    tmp_path: Path, width: int, layers: int, feed_forward: int, quantised: bool
) -> None:
    path = _big_model(tmp_path / "m.gguf", width=width, layers=layers, feed_forward=feed_forward, quantised=quantised)

    reserved, peak = _reserved_and_peak(path, tmp_path, CONTEXT // 3)

    assert peak <= reserved <= peak * (1 + MOST_OVER)
