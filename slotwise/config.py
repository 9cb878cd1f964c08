"""Every setting of `slotwise serve`, in one frozen, validated object.

Sources, strongest first: command line, `SLOTWISE_*` environment, the TOML file, Ollama's environment (`ollama_env`),
the defaults below. The file's keys are the field names; models may also be tables, `[model.NAME]` with `path` and
settings that differ for this model.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from slotwise.durations import seconds_of
from slotwise.keys.store import KeyStore, KeyStoreError
from slotwise.memory.footprint import HOST
from slotwise.memory.plan import usable
from slotwise.memory.pressure import TAKEN
from slotwise.memory.probe import read_memory
from slotwise.ollama_env import Alias, aliases_of
from slotwise.origins import ANY, Origins
from slotwise.paths import data_folder

ENV_PREFIX = "SLOTWISE_"
DEFAULT_PORT = 11435
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
KvType = Literal["f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
FlashAttn = Literal["auto", "on", "off"]
#: Cells that llama.cpp's CPU attention reads by one code path, whatever the number of rows.
REPRODUCIBLE_KV_TYPES = ("bf16", "q8_0")


class ConfigError(Exception):
    """Raised when a setting is unknown or its value is not allowed; the message names key, value and what is."""


def parse_bytes(value: object) -> object:
    """ "8GiB", "512 MB" or a number of bytes."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    digits = text.rstrip("bgikm ")
    unit = text[len(digits) :].strip()
    try:
        return int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise ValueError("must be a size such as 512MiB or 8GiB") from None


def parse_duration(value: object) -> float | None:
    """Seconds; None: for ever."""
    seconds = None if value is None else seconds_of(value)
    return None if seconds == math.inf else seconds


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    Origins(origins)
    return origins


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
BytesOrNone = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
#: Seconds; None = for ever.
Duration = Annotated[Annotated[float, Field(ge=0, le=365 * 86_400)] | None, BeforeValidator(parse_duration)]
Reserve = Literal["planned", "full"]
ModelKind = Literal["auto", "text", "embedding"]
KvLayout = Literal["auto", "unified", "split"]
Slots = Annotated[int, Field(ge=1, le=255)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Replicas = Annotated[int, Field(ge=1, le=64)]
Cells = Annotated[int, Field(ge=0, le=2**31 - 1)]
Layers = Annotated[int, Field(ge=-1, le=100_000)]


class ModelTable(BaseModel):
    """`[model.NAME]` of the file: a path, and what differs from the settings for all models."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    path: str
    #: auto: as the file says.
    kind: ModelKind = "auto"
    num_parallel: Slots | None = None
    context: Cells | None = None
    kv_cells: Cells | None = None
    kv_type: KvType | None = None
    kv_layout: KvLayout | None = None
    flash_attn: FlashAttn | None = None
    gpu_layers: Layers | None = None
    threads: Threads | None = None
    replicas: Replicas | None = None
    places: tuple[str, ...] = ()
    #: Where it is not given, the setting for all models is meant.
    keep_alive: Duration = None
    pinned: bool = False


class PrefixTable(BaseModel):
    """`[prefix.NAME]` of the file: a system prompt that is kept computed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    system: str | None = Field(None, min_length=1)
    #: Where the text is; from the folder that the server is started in.
    file: str | None = None
    #: Models that it is for; none = all.
    models: tuple[str, ...] = ()


class Settings(BaseSettings):
    """What `slotwise serve` runs with."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_nested_delimiter=None, protected_namespaces=()
    )

    models: tuple[str, ...] = Field((), description="GGUF files to serve, as PATH or NAME=PATH.")
    model: dict[str, ModelTable] = Field(
        {}, description="Models with settings of their own ([model.NAME] in the file)."
    )
    model_folder: str | None = Field(
        None,
        min_length=1,
        description="Folder whose models are served if none is named: GGUF files, or what Ollama has pulled.",
    )
    prefix: dict[str, PrefixTable] = Field(
        {}, description="System prompts that are kept computed ([prefix.NAME] in the file)."
    )
    prefix_cache: str | None = Field(
        None, min_length=1, description="Folder, the server's own, where [prefix.NAME] survive restarts."
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="Port to listen on.")
    num_parallel: Slots = Field(8, description="Slots: requests that one model serves at the same time.")
    context: Cells | None = Field(
        None,
        description="Most tokens of one request, prompt and answer; 0 = what the model knows and memory allows; "
        "default: 8192, or 4096 where not all slots have memory for it.",
    )
    kv_cells: Cells = Field(
        0, description="KV cells a model's requests share; 0 = as memory allows, num_parallel * context at most."
    )
    kv_type: KvType | None = Field(None, description="Type of the KV cells; default: f16, or bf16 if reproducible.")
    kv_layout: KvLayout = Field(
        "auto", description="One pool of KV cells for all (unified), one for each slot (split), or the better one."
    )
    fixed_parallel: bool = Field(
        False, description="Use all slots, also where fewer requests at a time would give more tokens in all."
    )
    reserve: Reserve = Field(
        "planned",
        description="Cells for an answer: as many as it will probably take (planned), or as it may take (full).",
    )
    itl_target: float = Field(
        0.35, ge=0, le=60, description="Seconds that prompts may hold up answers that are being written; 0 = no limit."
    )
    cache_ram: BytesOrNone = Field(
        512 * 2**20, description="Main memory per model for chats whose KV cells others have taken; 0 = none."
    )
    speculation: bool = Field(
        True, description="Check tokens that a request's own text suggests, where that is faster. Changes no answer."
    )
    isolate_keys: bool = Field(
        False, description="Share what prompts have in common within an API key only, or within its group."
    )
    flash_attn: FlashAttn = Field("auto", description="Flash attention: on, off, or auto: where it is quicker.")
    reproducible: bool = Field(
        False, description="Greedy answers the same bits alone and in company; CPU, quantised weights, slower."
    )
    threads: Threads = Field(0, description="Compute threads per model; 0 = the physical cores.")
    replicas: Replicas | None = Field(
        None, description="Workers per model, each on a GPU or cores of its own; more than one where others wait."
    )
    places: tuple[str, ...] = Field(
        (), description="Where they run: gpu:0, or cpus:0-7. Default: the first GPUs, or even parts of the cores."
    )
    gpu_layers: Layers = Field(-1, description="Layers on the GPU; -1 = as many as fit.")
    n_batch: int = Field(512, ge=32, le=8192, description="Most tokens of one step.")
    max_queue: int = Field(256, ge=0, le=1_000_000, description="Most requests that may wait, over all models.")
    max_wait: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="Most seconds a request waits for its turn; 0 = no limit. Else it is refused.",
    )
    user_header: str = Field(
        "X-OpenWebUI-User-Id", pattern="^[A-Za-z0-9-]*$", description="Header that names the end user behind a key."
    )
    preload: bool = Field(False, description="Load all models at the start, not on first use.")
    memory_budget: Bytes | None = Field(None, description="Most memory for all models; default: 90% of what is free.")
    max_loaded_models: int | None = Field(
        None, ge=1, le=10_000, description="Most models that are loaded at the same time; default: as many as fit."
    )
    keep_alive: Duration = Field(
        None, description="Unload a model that nobody has used for so long, as 30m; default: when its memory is wanted."
    )
    api_key: tuple[SecretStr, ...] = Field(
        (), description="Keys that clients must present, besides those of `slotwise keys`; none = no key asked for."
    )
    data: str | None = Field(
        None, min_length=1, description="Folder of keys and usage; default: ~/.local/share/slotwise. The server's own."
    )
    insecure_no_key: bool = Field(False, description="Allow other machines to use a server that asks for no key.")
    cors_origin: Annotated[tuple[str, ...], AfterValidator(check_origins)] = Field(
        (),
        description="Web pages that may use it, beside those of its own machine: https://chat.example, or *.",
    )
    max_body: Bytes = Field(10 * 2**20, description="Largest request body.")
    drain_timeout: float = Field(30.0, ge=0, le=86_400, description="Seconds for running requests at shutdown.")
    load_timeout: float = Field(300.0, gt=0, le=86_400, description="Seconds a load may stand still.")
    stall_timeout: float = Field(
        300.0, gt=0, le=86_400, description="Seconds a worker may work without a report; then it is restarted."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged.")
    #: What was set by variables of Ollama: for each, a sentence.
    _taken_over: tuple[str, ...] = PrivateAttr(())

    @property
    def taken_over(self) -> tuple[str, ...]:
        return self._taken_over

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Merging is done in `load_settings`, which knows where each value came from and can say so.
        return (init_settings,)


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the sources and validate the result.

    Raises:
        ConfigError: an unknown key, a bad value, a file that is not there.
    """
    environment = os.environ if environment is None else environment
    config_file = config_file or environment.get(f"{ENV_PREFIX}CONFIG")
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    try:
        aliases = aliases_of(environment)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    sources = [
        *((alias.settings, f"in {alias.variable}") for alias in aliases),
        (_from_file(config_file), f"in {config_file}"),
        (_from_environment(environment), "in the environment"),
        ({name: value for name, value in (flags or {}).items() if value is not None}, "on the command line"),
    ]
    for source, where in sources:
        for name, value in source.items():
            if name not in Settings.model_fields:
                raise ConfigError(_unknown(name, where))
            values[name], origin[name] = value, where
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from None
    _check(settings, origin)
    settings._taken_over = tuple(
        _taken_over(alias, origin) for alias in aliases if f"in {alias.variable}" in origin.values()
    )
    return settings


def memory_budgets(settings: Settings) -> dict[int, int]:
    """Bytes for all models together, on each device."""
    machine = read_memory()
    gpus = {gpu.index: usable(gpu.free_bytes) for gpu in machine.gpus}
    return {HOST: settings.memory_budget or int(TAKEN * machine.available_bytes)} | gpus


def _taken_over(alias: Alias, origin: Mapping[str, str]) -> str:
    """What a variable has set that nothing stronger has, and how it is called here."""
    names = [name for name in alias.settings if origin[name] == f"in {alias.variable}"]
    said = " and ".join(f"{name} = {alias.settings[name]!r}" for name in names)
    ours = " and ".join(f"{ENV_PREFIX}{name.upper()}" for name in names)
    return f"{alias.variable} is taken over: {said}. Here it is called {ours}."


def _check(settings: Settings, origin: Mapping[str, str]) -> None:
    _check_reproducible(settings)
    if ANY in settings.cors_origin and not _asks(settings):
        raise ConfigError(
            f"'cors_origin' is '*' {origin['cors_origin']}, and no key is asked for: any web page that somebody here "
            "looks at could use the models. Make a key with `slotwise keys add NAME`, or name the pages that may."
        )
    if settings.insecure_no_key or _is_loopback(settings.host) or _asks(settings):
        return
    raise ConfigError(
        f"host {settings.host!r}{_where(origin, 'host')} lets other machines in, and no key is asked for. "
        "Make one with `slotwise keys add NAME`, give --api-key (or SLOTWISE_API_KEY), or say --insecure-no-key."
    )


def _where(origin: Mapping[str, str], name: str) -> str:
    """Of a variable of Ollama's only: people may not think of it."""
    where = origin.get(name, "")
    return f" ({where})" if where.startswith("in OLLAMA_") else ""


def data_of(settings: Settings) -> Path:
    """The folder of what outlives the server."""
    return Path(settings.data) if settings.data else data_folder()


def key_store(settings: Settings) -> KeyStore:
    """Where the server's keys are."""
    return KeyStore(data_of(settings))


def _asks(settings: Settings) -> bool:
    """For keys."""
    if settings.api_key:
        return True
    try:
        keys, _ = key_store(settings).read()
    except KeyStoreError as error:
        raise ConfigError(str(error)) from error
    return bool(keys)


def _check_reproducible(settings: Settings) -> None:
    """What can not be had together with equal bits is refused rather than overruled."""
    if not settings.reproducible:
        return
    tables: dict[str, Settings | ModelTable] = {"": settings}
    tables |= {f"model.{name}.": table for name, table in settings.model.items()}
    for where, table in tables.items():
        if table.kv_type not in (None, *REPRODUCIBLE_KV_TYPES):
            allowed = " or ".join(REPRODUCIBLE_KV_TYPES)
            raise ConfigError(f"'{where}kv_type' is '{table.kv_type}': with 'reproducible' it must be {allowed}")
        if table.kv_layout == "unified":
            raise ConfigError(f"'{where}kv_layout' is 'unified': 'reproducible' needs split cells")
        if table.flash_attn == "off":
            raise ConfigError(f"'{where}flash_attn' is 'off': 'reproducible' needs it on")
        if table.gpu_layers is not None and table.gpu_layers > 0:
            raise ConfigError(f"'{where}gpu_layers' is {table.gpu_layers}: 'reproducible' is for the CPU only")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _from_file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the config file {path} can not be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {path} is not TOML: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        if variable.startswith(ENV_PREFIX) and variable != f"{ENV_PREFIX}CONFIG":
            name = variable.removeprefix(ENV_PREFIX).lower()
            if name == "places":  # a comma may stand within one
                values[name] = value.split()
            elif name in ("models", "api_key", "cors_origin"):
                values[name] = [part.strip() for part in value.split(",") if part.strip()]
            else:
                values[name] = value
    return values


def _unknown(name: str, where: str) -> str:
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(Settings.model_fields)}"
    return f"unknown setting '{name}' {where}{hint}"


def _explain(error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for fault in error.errors():
        path = ".".join(str(part) for part in fault["loc"])
        top = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            table = PrefixTable if top == "prefix" else ModelTable
            known = ", ".join(table.model_fields)
            lines.append(f"unknown setting '{path}' {origin.get(top, '')}; known here are {known}")
            continue
        value = "***" if top == "api_key" else repr(fault["input"])
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"'{path}' is {value} {origin.get(top, '')}: {message}")
    return "\n".join(lines)
