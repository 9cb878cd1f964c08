"""A look at this machine, against what the kernel says."""

import os
import platform
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from slotwise.memory import probe
from slotwise.memory.probe import GpuReading, physical_cores, processor, read_memory, read_process


def test_the_reading_is_of_this_machine() -> None:
    reading = read_memory()

    assert 0 < reading.available_bytes <= reading.total_bytes <= psutil.virtual_memory().total
    assert 1 <= physical_cores() <= (psutil.cpu_count() or 1)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, usage = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text("1048576\n")
    usage.write_text("48576\n")
    monkeypatch.setattr(probe, "_CGROUP_LIMITS", (str(limit),))
    monkeypatch.setattr(probe, "_CGROUP_USAGES", (str(tmp_path / "none"), str(usage)))

    monkeypatch.setattr(probe, "_CGROUP_STATS", (str(tmp_path / "none"),))

    assert (read_memory().total_bytes, read_memory().available_bytes) == (1048576, 1000000)

    usage.write_text("2000000\n")
    assert read_memory().available_bytes == 0

    limit.write_text("max\n")
    assert read_memory().total_bytes == psutil.virtual_memory().total


def test_a_process_has_at_most_its_peak_and_one_that_is_gone_has_nothing() -> None:
    block = bytearray(b"x") * 2**24
    reading = read_process(os.getpid())

    assert reading is not None
    assert len(block) < reading.anonymous < reading.resident <= reading.peak_resident
    assert read_process(2**31 - 1) is None


class Driver:
    """NVML with one GPU of 1000 bytes, and what it says of the processes there."""

    NVMLError = pynvml.NVMLError

    def __init__(self, processes: list[tuple[int, int | None]] | None) -> None:
        self._processes = processes

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "a GPU"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=1000, free=400)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        if self._processes is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self._processes]


@pytest.mark.parametrize(
    ("processes", "known"), [([(7, 100), (8, None)], {7: 100}), ([], {}), (None, {})], ids=["some", "hidden", "refused"]
)
def test_what_a_driver_does_not_say_of_a_process_is_not_known(
    monkeypatch: pytest.MonkeyPatch, processes: list[tuple[int, int | None]] | None, known: dict[int, int]
) -> None:
    monkeypatch.setattr(probe, "pynvml", Driver(processes))

    assert read_memory().gpus == (GpuReading(0, "a GPU", 1000, 400, known),)


@pytest.mark.parametrize("prefix", ["", "total_"])
def test_pages_of_files_in_a_container_can_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Mapped weights are such pages: they are not what others took."""
    for name, text in {
        "limit": "1000000",
        "usage": "900000",
        "stat": f"anon 5\nactive_file 1\ninactive_file 2\n{prefix}active_file 300000\n{prefix}inactive_file 400000\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(probe, "_CGROUP_LIMITS", (str(tmp_path / "limit"),))
    monkeypatch.setattr(probe, "_CGROUP_USAGES", (str(tmp_path / "usage"),))
    monkeypatch.setattr(probe, "_CGROUP_STATS", (str(tmp_path / "stat"),))

    assert read_memory().available_bytes == 1000000 - (900000 - 700000)


_X86 = "processor\t: {}\nmodel name\t: EPYC\ncpu MHz\t\t: {}\nflags\t\t: fpu{}\n\n"
_ARM = "processor\t: {}\nBogoMIPS\t: {}\nFeatures\t: fp{}\nCPU part\t: 0xd0c\n\n"


@pytest.mark.parametrize("text", [_X86, _ARM])
def test_a_processor_is_known_by_its_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(probe, "_CPU_INFO", str(tmp_path / "cpuinfo"))

    def kind(mhz: int, instructions: str = "") -> str:
        (tmp_path / "cpuinfo").write_text(text.format(0, mhz, instructions) + text.format(1, 2 * mhz, " second"))
        return processor()

    assert kind(2000) == kind(3000)
    assert len({kind(2000), kind(2000, " avx512")}) == 2
    assert "second" not in kind(2000)


def test_without_a_list_of_processors_there_is_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_CPU_INFO", str(tmp_path / "missing"))

    assert processor() == platform.machine()
