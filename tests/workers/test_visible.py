"""Which GPUs children see, and what NVML calls them."""

import pytest

from slotwise.workers.visible import cuda_environment, nvml_index


@pytest.mark.parametrize(
    ("layers", "gpu", "visible", "seen"),
    [
        (0, -1, None, ""),
        (0, 1, "2,3", ""),
        (-1, -1, "2,3", None),
        (-1, 0, None, "0"),
        (20, 1, None, "1"),
        (-1, 1, "2, 3", "3"),
        (-1, 0, "GPU-ab12", "GPU-ab12"),
        (-1, 5, "2,3", "5"),
    ],
)
def test_a_child_sees_what_it_uses(layers: int, gpu: int, visible: str | None, seen: str | None) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert cuda_environment(layers, gpu, environment).get("CUDA_VISIBLE_DEVICES") == seen
    assert (cuda_environment(layers, gpu, environment).get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID") == (layers != 0)


@pytest.mark.parametrize(
    ("gpu", "visible", "index"), [(0, "", 0), (2, "", 2), (0, "3", 3), (1, "4,2", 2), (0, "GPU-ab12", 0), (7, "4,2", 7)]
)
def test_nvml_counts_all_of_them(gpu: int, visible: str, index: int) -> None:
    assert nvml_index(gpu, {"CUDA_VISIBLE_DEVICES": visible}) == index
