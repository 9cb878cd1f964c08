"""A look at this machine, against what the kernel says."""

from pathlib import Path

import psutil
import pytest

from slotwise.memory import probe
from slotwise.memory.probe import physical_cores, read_memory


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
