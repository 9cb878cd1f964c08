"""The formulas, on one model with round numbers; test_llama_footprint.py holds them against llama.cpp."""

import pytest

from slotwise.memory.footprint import HOST, ContextShape, ModelFootprint, Split
from slotwise.memory.gguf import GGUFError, GGUFHeader, TensorInfo, Value
from slotwise.memory.shape import model_shape

BASE: dict[str, Value] = {
    "block_count": 4,
    "context_length": 4096,
    "embedding_length": 512,
    "feed_forward_length": 1024,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
    "vocab_size": 1000,
}


def _header(architecture: str = "llama", **values: Value) -> GGUFHeader:
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in (BASE | values).items()}
    metadata: dict[str, Value] = {"general.architecture": architecture}
    return GGUFHeader(3, metadata | named, (), 0)


def _model(architecture: str = "llama", **values: Value) -> ModelFootprint:
    header = _header(architecture, **values)
    return ModelFootprint(model_shape(header), header.tensors)


@pytest.mark.parametrize(
    ("kv_type", "row"),
    # 2 heads of 64 elements, K and V.
    [("f16", 256), ("bf16", 256), ("f32", 512), ("q8_0", 128 // 32 * 34), ("q4_0", 128 // 32 * 18)],
)
def test_a_cell(kv_type: str, row: int) -> None:
    context = ContextShape(256, 1, type_k=kv_type, type_v=kv_type)

    assert _model().bytes_per_cell(context) == 4 * 2 * row
    assert _model().footprint(context).on(HOST).cells == 256 * 4 * 2 * row


@pytest.mark.parametrize(
    ("cells", "sequences", "unified", "expected"),
    [
        (1000, 1, True, 1024),
        (1000, 3, True, 1024),
        (4096, 3, False, 3 * 1536),
        (256, 8, False, 8 * 256),
    ],
)
def test_cells_are_padded_as_llama_cpp_does(cells: int, sequences: int, unified: bool, expected: int) -> None:
    assert ContextShape(cells, sequences, unified=unified).all_cells == expected


def test_windowed_layers_have_fewer_cells_where_that_was_asked_for() -> None:
    model = _model("gemma3", block_count=6, attention__sliding_window=100)

    full = model.footprint(ContextShape(4096, 2)).on(HOST).cells
    windowed = model.footprint(ContextShape(4096, 2, n_batch=64, swa_full=False)).on(HOST).cells

    assert full == 6 * 4096 * 512
    # Five of six look at 100 tokens of two sequences, and there is room for a batch: 264, padded.
    assert windowed == (4096 + 5 * 512) * 512


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("attention__head_count_kv", [2, 2], "'llama.attention.head_count_kv' has 2 items for 4 layers"),
        ("nextn_predict_layers", 9, "9 of its 4 layers predict ahead"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(key: str, value: Value, words: str) -> None:
    with pytest.raises(GGUFError, match=words):
        model_shape(_header("llama", **{key: value}))


def test_an_architecture_that_nobody_knows_is_taken_for_plain_attention() -> None:
    header = _header("brand-new")

    assert not model_shape(header).known
    assert model_shape(header).layers == model_shape(_header()).layers
    assert model_shape(_header()).known


def test_a_header_without_numbers_is_no_model_and_no_crash() -> None:
    header = GGUFHeader(3, {"general.architecture": "llama"}, (), 0)

    model = ModelFootprint(model_shape(header), header.tensors)

    assert model.bytes_per_cell(ContextShape(256, 1)) == 0
    assert model.footprint(ContextShape(256, 1)).total > 0


# ---- where layers are

LAYERS = 4


@pytest.mark.parametrize(
    ("gpu_layers", "shares", "devices"),
    [
        # of the four layers, and of the output
        (0, (1.0,), [HOST] * 5),
        (1, (1.0,), [HOST] * 4 + [0]),
        (3, (1.0,), [HOST] * 2 + [0] * 3),
        (5, (1.0,), [0] * 5),
        (-1, (1.0,), [0] * 5),
        (99, (1.0,), [0] * 5),
        (5, (1.0, 1.0), [0, 0, 0, 1, 1]),
        (5, (1.0, 3.0), [0, 0, 1, 1, 1]),
        (5, (0.0, 1.0), [1] * 5),
        (4, (1.0, 1.0), [HOST, 0, 0, 1, 1]),
    ],
)
def test_the_last_layers_are_on_gpus_by_their_shares(
    gpu_layers: int, shares: tuple[float, ...], devices: list[int]
) -> None:
    split = Split(gpu_layers, shares)

    assert [split.device_of(layer, LAYERS) for layer in range(LAYERS + 1)] == devices


def _tensor(name: str, size: int) -> TensorInfo:
    return TensorInfo(name, (size // 4,), 0, 0, size)


def test_weights_are_where_their_layers_are() -> None:
    shape = model_shape(_header())
    tensors = [_tensor("token_embd.weight", 1000), _tensor("output_norm.weight", 128)]
    tensors += [_tensor(f"blk.{layer}.ffn_up.weight", 4096) for layer in range(LAYERS)]
    tied = ModelFootprint(shape, tensors)

    assert tied.weights() == {HOST: 1024 + 128 + 4 * 4096}
    # The output is counted as a layer; its weights are the embeddings', which then are there twice.
    assert tied.weights(Split(3)) == {HOST: 1024 + 2 * 4096, 0: 2 * 4096 + 128 + 1024}
    untied = ModelFootprint(shape, [*tensors, _tensor("output.weight", 2048)])
    assert untied.weights(Split(1)) == {HOST: 1024 + 4 * 4096, 0: 128 + 2048}


def test_rows_of_quantised_weights_are_filled_up_on_a_gpu() -> None:
    odd = TensorInfo("blk.0.ffn_up.weight", (576, 10), 8, 0, 10 * 576 // 32 * 34)
    even = TensorInfo("blk.0.ffn_up.weight", (512, 10), 8, 0, 10 * 512 // 32 * 34)
    shape = model_shape(_header())

    # 576 elements are 64 more than 512, so 448 are missing; then to a multiple of 128.
    assert ModelFootprint(shape, [odd]).weights(Split(99)) == {0: -(-(odd.nbytes + 448 // 32 * 34) // 128) * 128}
    assert ModelFootprint(shape, [even]).weights(Split(99)) == {0: -(-even.nbytes // 128) * 128}


def test_layers_that_predict_ahead_are_not_loaded() -> None:
    shape = model_shape(_header("glm4moe", nextn_predict_layers=1))
    tensors = [_tensor(f"blk.{layer}.ffn_up.weight", 4096) for layer in range(LAYERS)]

    assert ModelFootprint(shape, tensors).weights() == {HOST: 3 * 4096}
    assert [bool(layer.key) for layer in shape.layers] == [True, True, True, False]


def test_layers_that_are_gone_through_too_often_are_refused() -> None:
    with pytest.raises(GGUFError, match="4 layers are gone through 1099511627776 times"):
        model_shape(_header("nanbeige", num_loops=2**40))


@pytest.mark.parametrize("name", ["blk.\u00b2.x", "blk..x", "blk.-1.x", "blk.x"])
def test_a_layer_that_has_no_number_is_none(name: str) -> None:
    assert ModelFootprint(model_shape(_header()), [_tensor(name, 64)]).weights() == {HOST: 64}
