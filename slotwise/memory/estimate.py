"""How much memory a model will take: a plain sum with a margin. The exact footprint is its own piece of work.

    bytes = 1.1 * (file + cells * sum over layers of (row(K) + row(V)))     [research notes, memory.md 1.3]

Plain attention is assumed; windowed, MLA and recurrent models need less than this says.
"""

from __future__ import annotations

from slotwise.memory.gguf import GGUFHeader, read_header

MARGIN = 1.1
#: llama-context.cpp pads the cells of a pool to a multiple of this.
CELL_PADDING = 256
#: Of a text whose tokens are not counted yet. English has 4, code 3; fewer make the reservation larger.
CHARACTERS_PER_TOKEN = 2
#: Elements per block and bytes per block of the cache types.
CACHE_TYPES = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
    "iq4_nl": (32, 18),
}


def bytes_per_cell(header: GGUFHeader, kv_type: str) -> int:
    """Bytes of one KV cell (one token) over all layers."""
    heads = header.per_layer("attention.head_count", 1)
    kv_heads = header.per_layer("attention.head_count_kv", heads[0] if heads else 1)
    head_size = header.integer("embedding_length", 0) // max(heads[0] if heads else 1, 1)
    key = header.integer("attention.key_length", head_size)
    value = header.integer("attention.value_length", head_size)
    return sum(_row(key * count, kv_type) + _row(value * count, kv_type) for count in kv_heads)


def allocated_cells(cells: int, slots: int, *, split: bool) -> int:
    """Cells that llama.cpp makes where `cells` are asked for; `split`: a pool for each slot, padded by itself."""
    pools = slots if split else 1
    each = -(-cells // pools)
    return pools * -(-each // CELL_PADDING) * CELL_PADDING


def model_memory_bytes(
    path: str,
    *,
    slots: int,
    context_cap: int,
    kv_cells: int,
    kv_type: str,
    split: bool = False,
    prefix_characters: int = 0,
) -> int:
    """Bytes to reserve for a model. 0 means as in the settings: all the model knows, and slots * context_cap cells.

    `prefix_characters`: text of named prefixes, which are kept beside the context.

    Raises GGUFError or OSError.
    """
    header = read_header(path)
    known = header.integer("context_length", 0)
    cells = kv_cells or slots * min(context_cap or known, known or context_cap)
    cells = allocated_cells(cells, slots, split=split)
    cells += prefix_characters // CHARACTERS_PER_TOKEN
    return int(MARGIN * (header.file_bytes + cells * bytes_per_cell(header, kv_type)))


def _row(elements: int, kv_type: str) -> int:
    block, size = CACHE_TYPES[kv_type]
    return -(-elements // block) * size
