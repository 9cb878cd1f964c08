"""The sum that is reserved for a model, against numbers worked out by hand."""

import pytest

from slotwise.loads import demo_model_path
from slotwise.memory.estimate import MARGIN, allocated_cells, bytes_per_cell, model_memory_bytes
from slotwise.memory.gguf import GGUFHeader, read_header


def _header(**values: object) -> GGUFHeader:
    metadata = {"general.architecture": "llama"} | {f"llama.{key}": value for key, value in values.items()}
    return GGUFHeader(3, 0, metadata, 1000)  # type: ignore[arg-type]


LLAMA = {
    "block_count": 2,
    "embedding_length": 512,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
    "context_length": 100,
}


@pytest.mark.parametrize(
    ("kv_type", "expected"),
    # 2 layers, K and V, 2 heads of 64 elements each: 512 elements.
    [("f16", 1024), ("bf16", 1024), ("f32", 2048), ("q8_0", 512 // 32 * 34), ("q4_0", 512 // 32 * 18)],
)
def test_a_cell(kv_type: str, expected: int) -> None:
    assert bytes_per_cell(_header(**LLAMA), kv_type) == expected


def test_key_and_value_heads_of_their_own_size() -> None:
    sized = LLAMA | {"attention.key_length": 192, "attention.value_length": 128}

    assert bytes_per_cell(_header(**sized), "f16") == 2 * 2 * (192 + 128) * 2


def test_layers_of_different_width() -> None:
    assert bytes_per_cell(_header(**LLAMA | {"attention.head_count_kv": [2, 4]}), "f16") == 2 * (2 + 4) * 64 * 2


def test_without_grouped_heads_every_head_has_keys_and_values() -> None:
    plain = {key: value for key, value in LLAMA.items() if key != "attention.head_count_kv"}

    assert bytes_per_cell(_header(**plain), "f16") == 4 * bytes_per_cell(_header(**LLAMA), "f16")


@pytest.mark.parametrize("missing", [{}, {"block_count": 0}, {"block_count": 3, "attention.head_count": 0}])
def test_a_header_that_says_little_is_no_fault(missing: dict[str, object]) -> None:
    assert bytes_per_cell(_header(**missing), "f16") >= 0


def test_the_demo_model() -> None:
    header = read_header(demo_model_path())
    cell = 30 * 2 * 3 * 64 * 2

    def need(slots: int, cap: int, cells: int = 0) -> int:
        return model_memory_bytes(demo_model_path(), slots=slots, context_cap=cap, kv_cells=cells, kv_type="f16")

    assert bytes_per_cell(header, "f16") == cell
    assert need(8, 4096) == int(MARGIN * (header.file_bytes + 8 * 4096 * cell))
    assert need(2, 0) == need(2, 8192) == need(2, 99_999), "the model knows 8192"
    assert need(2, 4096, 100) == int(MARGIN * (header.file_bytes + 256 * cell))


@pytest.mark.parametrize(
    ("cells", "slots", "split", "expected"),
    [
        (4096, 64, False, 4096),
        (4096, 64, True, 64 * 256),
        (1000, 10, False, 1024),
        (1000, 10, True, 2560),
        (1, 1, True, 256),
    ],
)
def test_cells_as_llama_cpp_pads_them(cells: int, slots: int, split: bool, expected: int) -> None:
    assert allocated_cells(cells, slots, split=split) == expected
