"""What was measured of models on this machine, kept in the data folder: a second question is answered at once.

A file for each way of loading a model: another model file, another build of llama.cpp, other threads or cells are
another file. A help and never a condition: what can not be read or written is measured again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from slotwise.benchmarks.calibration.observations import Observation
from slotwise.benchmarks.simulation.engine import Engine, HostCosts
from slotwise.fingerprint import FileIdentity, library_files
from slotwise.memory.probe import processor, read_memory
from slotwise.paths import write_whole
from slotwise.workers.protocol import LoadModel

logger = logging.getLogger(__name__)

FOLDER = "calibrations"
#: Counted up when the file's fields change their meaning. In the first, `host` had what prompts take in each request's
#: wait; all else was as it is.
_FORM, _OLD_HOST = 2, 1
#: One that was not measured to its end is measured again where there is so many times as much time.
_MORE = 1.5
#: Of a load, what decides about how long its steps take.
_MATTERS = (
    *("n_gpu_layers", "tensor_split", "threads", "gpu", "cpus", "kv_type", "use_extra_bufts"),
    "reproducible",
)


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model, loaded in one way."""

    form: int = _FORM
    model: str
    #: ISO 8601, UTC.
    measured: str
    engine: Engine
    load_s: float
    #: None: only the steps were measured, and no server.
    host: HostCosts | None = None
    #: Tokens that its template has around a message; None: as for `host`.
    template: int | None = None
    #: It was not measured to its end, in so many seconds.
    partial: bool = False
    seconds: float = 0.0
    observations: tuple[Observation, ...] = ()

    def is_enough(self, seconds: float) -> bool:
        """In so many seconds not much more would be found out."""
        return not self.partial or seconds <= _MORE * self.seconds


def key_of(load: LoadModel, files: Sequence[FileIdentity], *, split: bool, flash: bool) -> str:
    """Of what a calibration depends on. `flash`: attention is computed by the flash kernel."""
    gpus = [(gpu.name, gpu.total_bytes) for gpu in read_memory().gpus] if load.n_gpu_layers else []
    depends_on = (
        {name: getattr(load, name) for name in _MATTERS},
        split,
        flash,
        files,
        library_files(os.environ),
        gpus,
        processor(),
        os.environ.get("GOMP_SPINCOUNT", ""),
    )
    return hashlib.sha256(msgspec.json.encode(depends_on, order="deterministic")).hexdigest()


class Calibrations:
    """The folder of them."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER

    def find(self, key: str) -> Calibration | None:
        try:
            found = msgspec.json.decode((self._folder / f"{key[:32]}.json").read_bytes(), type=Calibration)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("a calibration in %s can not be used: %s", self._folder, error)
            return None
        if found.form == _OLD_HOST:
            return msgspec.structs.replace(found, form=_FORM, host=None)
        return found if found.form == _FORM else None

    def keep(self, key: str, calibration: Calibration) -> None:
        path = self._folder / f"{key[:32]}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, msgspec.json.format(msgspec.json.encode(calibration), indent=1))
        except OSError as error:
            logger.warning("what was measured can not be kept: %s", error)
