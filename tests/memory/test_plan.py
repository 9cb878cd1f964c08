"""Where layers go: on made-up machines, with models of round numbers."""

from hypothesis import given
from hypothesis import strategies as st

from slotwise.memory.footprint import HOST, ContextShape, ModelFootprint, Split
from slotwise.memory.gguf import TensorInfo
from slotwise.memory.plan import GPU_OVERHEAD, place
from slotwise.memory.shape import Layer, ModelShape

MIB = 2**20
LAYERS, WIDTH = 10, 1024
CONTEXT = ContextShape(4096, 4)


def _model(layer_mib: int = 100, output_mib: int = 50) -> ModelFootprint:
    """Ten layers of 100 MiB, embeddings and an output of 50 MiB; a cell of 4 KiB a layer."""
    shape = ModelShape(
        architecture="llama",
        known=True,
        layers=(Layer(WIDTH, WIDTH),) * LAYERS,
        window=0,
        can_go_back=True,
        embedding=WIDTH,
        feed_forward=4 * WIDTH,
        heads=8,
        vocab=1000,
        context_train=8192,
        blocks=LAYERS,
        trunk=LAYERS,
    )
    sizes = {f"blk.{index}.ffn_up.weight": layer_mib for index in range(LAYERS)}
    sizes |= {"token_embd.weight": output_mib, "output.weight": output_mib}
    tensors = [TensorInfo(name, (size * MIB // 4,), 0, 0, size * MIB) for name, size in sizes.items()]
    return ModelFootprint(shape, tensors)


def _gpu(usable_mib: int) -> int:
    """Of which so many are for weights and cells."""
    return usable_mib * MIB + GPU_OVERHEAD


HOST_FREE = 16 * 1024 * MIB


def test_without_a_gpu_all_of_it_is_on_the_host() -> None:
    placed = place(_model(), [CONTEXT], HOST_FREE, [])

    assert placed is not None
    assert (placed.split.gpu_layers, set(placed.bytes)) == (0, {HOST})
    assert placed.bytes[HOST] > 1100 * MIB
    assert place(_model(), [CONTEXT], 1000 * MIB, []) is None


def test_one_gpu_takes_all_of_it_if_it_can() -> None:
    placed = place(_model(), [CONTEXT], HOST_FREE, [_gpu(500), _gpu(2000)])

    assert placed is not None
    assert placed.split.gpu_layers == LAYERS + 1
    assert set(placed.bytes) == {HOST, 1}, "only the second: nothing is on the first, not even a driver's context"


def test_two_share_what_none_of_them_could_take() -> None:
    placed = place(_model(), [CONTEXT], HOST_FREE, [_gpu(900), _gpu(900)])

    assert placed is not None
    assert placed.split.gpu_layers == LAYERS + 1
    assert set(placed.bytes) == {HOST, 0, 1}


def test_what_does_not_fit_stays_on_the_host() -> None:
    placed = place(_model(), [CONTEXT], HOST_FREE, [_gpu(700)])

    assert placed is not None
    assert 0 < placed.split.gpu_layers < LAYERS
    more = Split(placed.split.gpu_layers + 1, placed.split.shares)
    assert _model().footprint(CONTEXT, more).on(0).total + GPU_OVERHEAD > _gpu(700), "one more would fit"


@given(st.lists(st.integers(0, 3000), max_size=3), st.integers(0, 3000))
def test_no_device_is_promised_more_than_it_has(gpus: list[int], host: int) -> None:
    free = [size * MIB for size in gpus]
    placed = place(_model(), [CONTEXT], host * MIB, free)

    if placed is None:
        assert _model().footprint(CONTEXT).total > host * MIB, "the host alone would do"
        return
    assert placed.bytes[HOST] <= host * MIB
    assert all(taken <= free[gpu] for gpu, taken in placed.bytes.items() if gpu != HOST)


def test_all_layers_with_fewer_cells_are_better_than_some_with_more() -> None:
    contexts = [ContextShape(size, 4) for size in (65_536, 16_384, 4096)]  # 2.6 GiB, 640 MiB, 160 MiB

    placed = place(_model(), contexts, HOST_FREE, [_gpu(2000)])

    assert placed is not None
    assert placed.split.gpu_layers == LAYERS + 1
    assert placed == place(_model(), [contexts[1]], HOST_FREE, [_gpu(2000)])


def test_all_gpus_with_more_cells_are_better_than_one_with_fewer() -> None:
    contexts = [ContextShape(size, 4) for size in (16_384, 4096)]

    placed = place(_model(), contexts, HOST_FREE, [_gpu(1400), _gpu(1400)])

    assert placed is not None
    assert set(placed.bytes) == {HOST, 0, 1}


def test_where_not_all_layers_fit_it_is_with_the_fewest_cells() -> None:
    contexts = [ContextShape(size, 4) for size in (16_384, 4096)]

    placed = place(_model(), contexts, HOST_FREE, [_gpu(700)])

    assert placed == place(_model(), [contexts[1]], HOST_FREE, [_gpu(700)])
