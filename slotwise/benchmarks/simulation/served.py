"""How a model would be served, and what steps take there: measured here before, measured now, or assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import msgspec

from slotwise.benchmarks.calibration.fit import engine_of
from slotwise.benchmarks.calibration.hosting import host_costs, measure_host
from slotwise.benchmarks.calibration.keeping import Calibration, Calibrations, key_of
from slotwise.benchmarks.calibration.measuring import measure
from slotwise.benchmarks.document import Machine
from slotwise.benchmarks.experiment import this_machine
from slotwise.benchmarks.hardware import Hardware, engine_for
from slotwise.benchmarks.measure import now_iso
from slotwise.benchmarks.runner import Run
from slotwise.benchmarks.simulation.engine import Engine, HostCosts
from slotwise.benchmarks.simulation.setup import simulated_model
from slotwise.config import ConfigError, load_settings, memory_budgets
from slotwise.fingerprint import identities
from slotwise.loads import model_loads
from slotwise.memory.accounts import Amounts
from slotwise.memory.gguf import GGUFError
from slotwise.memory.shards import model_files
from slotwise.needs import ModelFile
from slotwise.workers.fake import SCHEME as FAKE_SCHEME
from slotwise.workers.protocol import LoadModel

#: Slots, and tokens of each, of the context that is calibrated with, the first for which there is memory: all sizes of
#: steps up to there are measured, and larger ones are taken to go on like the last two.
_CALIBRATED = ((32, 4096), (32, 2048), (32, 1024), (16, 1024), (8, 1024), (8, 512))
#: Layers on a GPU that need not be here: all of them, and not as many as fit into those that are.
ALL_LAYERS = 999
#: What a front and its clients take where no server was measured: a request is read, checked and tokenised, and each
#: token goes out as an event.
ASSUMED_HOST = HostCosts(
    request_s=0.01, prompt_token_s=5e-6, request_taken_s=0.005, token_taken_s=1e-4, delivery_s=0.002
)


@dataclass(frozen=True, slots=True)
class Served:
    """A model with settings, as the server would load it."""

    file: ModelFile
    load: LoadModel
    replicas: int = 1

    @property
    def split(self) -> bool:
        return self.file.layout(self.load).split

    @property
    def flash(self) -> bool:
        return self.file.layout(self.load).context.flash_attention


def served(wishes: Mapping[str, Any], model: str | None) -> Served:
    """`wishes`: settings of `slotwise serve`; None = as they are by default. Raises ConfigError."""
    given = {name: value for name, value in wishes.items() if value is not None}
    settings = load_settings({"models": [] if model is None else [model], **given}, environment={})
    (loads,) = model_loads(settings).values()
    load = loads[0]
    if load.path.startswith(FAKE_SCHEME):
        raise ConfigError(f"{load.path} is a scripted model: it has nothing to simulate")
    if load.pooling:
        raise ConfigError(f"{load.path} embeds: only models that write are simulated")
    try:
        return Served(ModelFile(load.path), load, len(loads))
    except GGUFError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{error.filename or load.path} can not be read: {error.strerror}") from None


def calibration_key(served: Served) -> str:
    """Of what decides here about how long its steps take. Raises OSError."""
    files = identities(model_files(served.load.path, served.file.header))
    return key_of(served.load, files, split=served.split, flash=served.flash)


class Engines(Protocol):
    """What steps take."""

    machine: Machine

    def engine(self, served: Served) -> Engine: ...

    def host(self, served: Served) -> HostCosts: ...

    def load_s(self, served: Served) -> float: ...

    def assumptions(self, served: Served) -> tuple[str, ...]:
        """What is taken for granted, in words."""


class Assumed:
    """Of hardware that is not here, or that is not to be measured."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        gpus = (hardware.name,) if hardware.is_gpu else ()
        self.machine = Machine(
            cpu="" if hardware.is_gpu else hardware.name,
            cores=0,
            memory_gib=round(hardware.memory_bytes / 2**30, 1),
            gpus=gpus,
            system="simulated",
        )

    def engine(self, served: Served) -> Engine:
        return engine_for(self.hardware, served.file.footprint, served.file.layout(served.load).context)

    def host(self, served: Served) -> HostCosts:
        """A GPU's machine has cores for the front; on a processor all share them."""
        if not self.hardware.is_gpu:
            return ASSUMED_HOST
        return msgspec.structs.replace(ASSUMED_HOST, request_taken_s=0.0, token_taken_s=5e-6)

    def load_s(self, served: Served) -> float:
        return 1.0

    def assumptions(self, served: Served) -> tuple[str, ...]:
        return self.hardware.assumptions


class MeasuredHere:
    """Of this machine, by calibrations that are kept."""

    def __init__(self, calibrations: Calibrations) -> None:
        self._calibrations = calibrations
        self._found: dict[str, Calibration] = {}
        self.machine = this_machine()

    def find(self, served: Served) -> Calibration | None:
        """What was measured of such a load before."""
        key = self.key(served)
        if key not in self._found and (known := self._calibrations.find(key)) is not None:
            self._found[key] = known
        return self._found.get(key)

    async def calibrate(self, served: Served, seconds: float, watch: Callable[[int, int], None]) -> Calibration:
        """Measure it now, and keep it. Raises NotMeasured or NotEnough."""
        load = calibrated_load(served, memory_budgets(load_settings({}, environment={})))
        found = await measure(load, seconds, context=load.context_cap, split=served.split, watch=watch)
        calibration = Calibration(
            model=load.path.rpartition("/")[2],
            measured=now_iso(),
            engine=engine_of(found.opened, found.observations),
            load_s=found.opened.load_s,
            partial=not found.complete,
            seconds=seconds,
            observations=found.observations,
        )
        self.keep(served, calibration)
        return calibration

    async def with_host(
        self, served: Served, flags: tuple[str, ...], seconds: float, watch: Callable[[Run, str, float], None]
    ) -> Calibration:
        """What is known of such a load, and what a real server takes beside its steps: from before, or measured now
        with these `flags`, and kept. Without drafts, which are not simulated: they would look like a front that takes
        nothing. Raises PeerError or ServerUnfit."""
        known = self._known(served)
        if known.host is None:
            model = simulated_model(served.file, served.load, known.engine, ASSUMED_HOST)
            # Of the context that requests really have, in both: what fits into it is asked.
            context = model.info.context_cap
            found = await measure_host(served.load.path, (*flags, "--no-speculation"), context, seconds, watch)
            host = await anyio.to_thread.run_sync(host_costs, model, found, seconds)
            known = msgspec.structs.replace(known, host=host, template=found.template)
            self.keep(served, known)
        return known

    def keep(self, served: Served, calibration: Calibration) -> None:
        key = self.key(served)
        self._found[key] = calibration
        self._calibrations.keep(key, calibration)

    def key(self, served: Served) -> str:
        return calibration_key(served)

    def engine(self, served: Served) -> Engine:
        return self._known(served).engine

    def host(self, served: Served) -> HostCosts:
        return self._known(served).host or ASSUMED_HOST

    def load_s(self, served: Served) -> float:
        return self._known(served).load_s

    def assumptions(self, served: Served) -> tuple[str, ...]:
        known = self._known(served)
        steps = f"steps take what they took on this machine on {known.measured[:10]}, and no longer now and then"
        host = "what the server itself takes is assumed" if known.host is None else "so does the server itself"
        return steps, host, "speculation is not simulated"

    def _known(self, served: Served) -> Calibration:
        found = self.find(served)
        assert found is not None, "it is calibrated first"
        return found


def calibrated_load(served: Served, budgets: Amounts) -> LoadModel:
    """The load that is measured for all that differ in slots, context and cells only: as large as there is memory for,
    and no less than the smallest."""
    loads = [_calibrated(served, *sizes) for sizes in _CALIBRATED]
    return next((load for load in loads if _fits(served.file, load, budgets)), loads[-1])


def _calibrated(served: Served, slots: int, context: int) -> LoadModel:
    context = min(context, served.file.shape.context_train)
    return msgspec.structs.replace(
        served.load,
        slots=slots,
        context_cap=context,
        kv_cells=slots * context if served.split else 4 * context,
        n_batch=2048,
        kv_layout="split" if served.split else "unified",
        # On a processor `auto` may be something else with these sizes.
        flash_attn=served.load.flash_attn if served.load.n_gpu_layers else ("on" if served.flash else "off"),
        speculation=False,
        prefixes=(),
        prefix_cache="",
        host_bytes=0,
    )


def _fits(file: ModelFile, load: LoadModel, budgets: Amounts) -> bool:
    return all(size <= budgets.get(device, size) for device, size in file.by_formula(load).amounts.items())
