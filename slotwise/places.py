"""Where the workers of a model run: each on a GPU of its own, or on a part of the cores.

Workers that compute on the same cores wait for each other at every barrier and give less together than one does alone.
So several workers of a model on a CPU are given different cores, whole ones, of as few sockets as may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slotwise.config import ConfigError
from slotwise.memory.probe import cpu_cores, physical_cores


@dataclass(frozen=True, slots=True)
class Place:
    """Of one worker."""

    #: The only GPU that it uses; -1 = all there are.
    gpu: int = -1
    #: The logical CPUs that it may use; none = all.
    cpus: tuple[int, ...] = ()
    #: Compute threads, where the settings do not say.
    threads: int = 1


def places_of(name: str, replicas: int | None, places: Sequence[str], gpus: int) -> tuple[Place, ...]:
    """The places of a model's workers: as named, else a GPU for each if there are enough, else parts of the cores.

    `gpus`: how many may be used. Raises ConfigError.
    """
    if places:
        if replicas is not None and replicas != len(places):
            raise ConfigError(f"model '{name}': 'replicas' is {replicas}, and 'places' names {len(places)}")
        return tuple(_named(name, place, gpus) for place in places)
    count = replicas or 1
    if count == 1:
        return (Place(threads=physical_cores()),)
    if 0 < gpus < count:
        raise ConfigError(f"model '{name}': 'replicas' is {count}, and GPUs for them are {gpus}: name their 'places'")
    if gpus:
        return tuple(Place(gpu=index, threads=physical_cores()) for index in range(count))
    cores = cpu_cores()
    if count > len(cores):
        raise ConfigError(f"model '{name}': 'replicas' is {count}, and there are {len(cores)} cores for them")
    parts = [cores[len(cores) * index // count : len(cores) * (index + 1) // count] for index in range(count)]
    return tuple(Place(cpus=tuple(sorted(cpu for core in part for cpu in core)), threads=len(part)) for part in parts)


def _named(name: str, place: str, gpus: int) -> Place:
    kind, _, text = place.partition(":")
    if kind == "gpu" and text.isdecimal():
        if int(text) >= gpus:
            has = f"the last GPU is {gpus - 1}" if gpus else "there is no GPU that it may use"
            raise ConfigError(f"model '{name}': 'places' names '{place}', and {has}")
        return Place(gpu=int(text), threads=physical_cores())
    if kind == "cpus":
        cpus = _cpu_list(text)
        cores = cpu_cores()
        known = {cpu for core in cores for cpu in core}
        if cpus and cpus <= known:
            return Place(cpus=tuple(sorted(cpus)), threads=sum(not cpus.isdisjoint(core) for core in cores))
        if cpus:
            missing = min(cpus - known)
            raise ConfigError(f"model '{name}': 'places' names CPU {missing}, which this process may not use")
    raise ConfigError(f"model '{name}': 'places' has '{place}'; allowed are such as 'gpu:0' and 'cpus:0-7,16-23'")


def _cpu_list(text: str) -> set[int]:
    """As the kernel writes them, `0-3,8`; nothing where it is not one."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > 65_535:
            return set()
        if int(last or first) < int(first):
            return set()
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus
