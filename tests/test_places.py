"""Where several workers of a model run."""

import pytest

from slotwise import loads, places
from slotwise.config import ConfigError, load_settings
from slotwise.loads import model_loads
from slotwise.memory.probe import GpuReading, MemoryReading, cpu_cores
from slotwise.places import Place, places_of

#: Two sockets of three cores, with two threads each.
CORES = [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "cpu_cores", lambda: list(CORES))
    monkeypatch.setattr(places, "physical_cores", lambda: len(CORES))


def test_one_worker_may_use_all_there_is() -> None:
    assert places_of("m", None, (), 0) == places_of("m", 1, (), 4) == (Place(threads=6),)


def test_several_are_on_a_gpu_each_where_there_are_enough() -> None:
    assert [place.gpu for place in places_of("m", 2, (), 2)] == [0, 1]


@pytest.mark.parametrize(
    ("replicas", "cpus", "threads"),
    [
        (2, [(0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11)], [3, 3]),
        (4, [(0, 6), (1, 2, 7, 8), (3, 9), (4, 5, 10, 11)], [1, 2, 1, 2]),
    ],
)
def test_else_they_share_the_cores_whole_ones_socket_by_socket(
    replicas: int, cpus: list[tuple[int, ...]], threads: list[int]
) -> None:
    found = places_of("m", replicas, (), 0)

    assert [place.cpus for place in found] == cpus
    assert [place.threads for place in found] == threads
    assert all(place.gpu == -1 for place in found)


def test_named_places_are_taken_as_they_are() -> None:
    assert places_of("m", None, ("gpu:1", "cpus:0-2,7"), 2) == (
        Place(gpu=1, threads=6),
        Place(cpus=(0, 1, 2, 7), threads=3),
    )


@pytest.mark.parametrize(
    ("replicas", "named", "says"),
    [
        (3, ("gpu:0",), "'replicas' is 3, and 'places' names 1"),
        (None, ("gpu:2",), "'places' names 'gpu:2', and the last GPU is 1"),
        (None, ("cpus:11-12",), "CPU 12, which this process may not use"),
        (None, ("cpus:3-1",), "'places' has 'cpus:3-1'; allowed are such as 'gpu:0'"),
        (None, ("cpus:",), "'places' has 'cpus:'"),
        (None, ("socket 1",), "'places' has 'socket 1'"),
        (None, ("cpus:0-99999999",), "'places' has"),
        (7, (), "'replicas' is 7, and there are 6 cores"),
        (3, (), "'replicas' is 3, and GPUs for them are 2: name their 'places'"),
        (None, ("cpus:0,3-1",), "'places' has 'cpus:0,3-1'"),
    ],
)
def test_what_can_not_be_is_refused_with_what_can(replicas: int | None, named: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        places_of("m", replicas, named, 0 if replicas == 7 else 2)

    assert says in str(refusal.value)


def test_the_settings_say_how_many_and_where() -> None:
    settings = load_settings({"models": ["a=fake:"], "replicas": 2, "threads": 0}, environment={})
    first, second = model_loads(settings)["a"]
    named = load_settings({"models": ["a=fake:"]}, environment={"SLOTWISE_PLACES": "cpus:0 cpus:1,7 cpus:2"})

    assert (first.cpus, second.cpus) == ((0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11))
    assert (first.threads, second.threads) == (3, 3)
    assert [load.threads for load in model_loads(named)["a"]] == [1, 1, 1]


def test_workers_with_cores_of_their_own_use_no_gpu_unless_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = (GpuReading(0, "A", 1, 1),)
    monkeypatch.setattr(loads, "read_memory", lambda: MemoryReading(1, 1, gpus))
    flags: dict[str, object] = {"models": ["a=fake:"], "places": ["gpu:0", "cpus:0-2"]}

    assert [load.n_gpu_layers for load in model_loads(load_settings(flags, environment={}))["a"]] == [-1, 0]
    asked = load_settings(flags | {"gpu_layers": 10}, environment={})
    assert [load.n_gpu_layers for load in model_loads(asked)["a"]] == [10, 10]


def test_the_cores_of_this_machine_are_told_apart() -> None:
    cores = cpu_cores()

    assert cores
    assert len({cpu for core in cores for cpu in core}) == sum(map(len, cores))
