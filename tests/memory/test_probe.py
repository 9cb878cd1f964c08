"""A look at this machine, against what the kernel says."""

import platform
from pathlib import Path

import psutil
import pytest

from slotwise.memory import probe
from slotwise.memory.probe import physical_cores, processor, read_memory


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
