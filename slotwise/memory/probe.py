"""What the machine has: host memory (container limits count) and GPUs. The only module that asks psutil and NVML."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import psutil
import pynvml

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP_USAGES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
_CGROUP_STATS = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")
_CPU_INFO = "/proc/cpuinfo"
#: Its lines that are the same at each look: x86 has the first two, ARM the others.
_CPU_KIND = ("model name", "flags", "CPU implementer", "CPU part", "Features")


@dataclass(frozen=True, slots=True)
class GpuReading:
    index: int
    name: str
    total_bytes: int
    free_bytes: int
    #: By process id, as far as the driver says it: in containers, under WSL and on parts of a GPU (MIG) it may not.
    process_bytes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """One look at the machine."""

    total_bytes: int
    available_bytes: int
    gpus: tuple[GpuReading, ...]


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """Main memory of a process, in bytes."""

    #: With the pages of files that it has mapped, such as weights.
    resident: int
    #: Without them: the machine can take those back.
    anonymous: int
    #: The most that was resident since the process began; where the system does not keep it, what is resident now.
    peak_resident: int


def read_memory() -> MemoryReading:
    host = psutil.virtual_memory()
    total, available = host.total, host.available
    limit = _first_number(_CGROUP_LIMITS)
    if limit is not None and limit < total:
        total = limit
        # Pages of files count as used there, also those of mapped weights; they can be taken back.
        used = (_first_number(_CGROUP_USAGES) or 0) - _cgroup_file_pages()
        available = min(available, max(limit - max(used, 0), 0))
    return MemoryReading(total, available, _read_gpus())


def read_process(pid: int) -> ProcessReading | None:
    """None: it is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    resident = int(memory.rss)
    return ProcessReading(resident, resident - int(getattr(memory, "shared", 0)), max(resident, _most_resident(pid)))


def own_bytes() -> int:
    """Main memory that this process has in use (RSS)."""
    return int(psutil.Process().memory_info().rss)


def physical_cores() -> int:
    """Cores for compute threads; hyper-threads do not help matrix products."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def processor() -> str:
    """Which kind of processor this is, and what instructions it has: libraries choose their kernels by that."""
    lines = [platform.machine()]
    with contextlib.suppress(OSError), open(_CPU_INFO) as file:
        # Of the first one alone: the kernel makes the text as it is read.
        lines += [line.rstrip() for line in takewhile(str.strip, file) if line.startswith(_CPU_KIND)]
    return "\n".join(lines)


def cpu_cores() -> list[tuple[int, ...]]:
    """The logical CPUs of each physical core that this process may use, socket by socket."""
    try:
        usable = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return [(cpu,) for cpu in range(physical_cores())]
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in usable:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        socket = _first_number((f"{topology}/physical_package_id",)) or 0
        core = _first_number((f"{topology}/core_id",))
        cores.setdefault((socket, cpu if core is None else core), []).append(cpu)
    return [tuple(cores[place]) for place in sorted(cores)]


def busy_core_seconds() -> float:
    """Seconds that all cores together have spent on anything since the machine started."""
    times = psutil.cpu_times()
    # Guests are part of user time, and waiting for a disk is not work.
    return float(times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))


def core_seconds_of(pid: int) -> float:
    """Seconds of any core that a process and its living descendants have used; 0 if it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    total = 0.0
    for member in family:
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            total += times.user + times.system
    return total


def listener(port: int) -> int | None:
    """The process that listens on a TCP port of this machine; None if there is none, or it is not ours to see."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.Error:
        return None
    listening = (one for one in found if one.status == psutil.CONN_LISTEN)
    # Connections of some kinds have an empty address.
    return next((one.pid for one in listening if getattr(one.laddr, "port", None) == port), None)


def _read_gpus() -> tuple[GpuReading, ...]:
    """No driver is not an error: then there are no GPUs."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _read_gpu(index: int) -> GpuReading:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    name = name if isinstance(name, str) else name.decode()
    return GpuReading(index, name, int(memory.total), int(memory.free), _processes_of(handle))


def _processes_of(handle: object) -> dict[int, int]:
    """Bytes of a GPU by process id. Processes of which the driver does not know it, and those of other containers that
    it does not show, are not there."""
    try:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return {}
    return {int(one.pid): int(one.usedGpuMemory) for one in found if one.usedGpuMemory is not None}


def _most_resident(pid: int) -> int:
    """VmHWM of proc(5), in bytes; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return 0


def _cgroup_file_pages() -> int:
    """Bytes of files that the container has in memory, by memory.stat of either version."""
    for path in _CGROUP_STATS:
        with contextlib.suppress(OSError, ValueError):
            fields = dict(line.split() for line in Path(path).read_text().splitlines())
            names = ("total_active_file", "total_inactive_file")
            names = names if names[0] in fields else ("active_file", "inactive_file")
            return sum(int(fields.get(name, 0)) for name in names)
    return 0


def _first_number(paths: tuple[str, ...]) -> int | None:
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            return int(Path(path).read_text())  # "max" is no number: no limit
    return None
