"""What every setting of `slotwise serve` is called, may be, and is by default: one frozen, validated object.

`config` says where the values come from.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from slotwise.durations import seconds_of
from slotwise.origins import Origins

ENV_PREFIX = "SLOTWISE_"
DEFAULT_PORT = 11435
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
KvType = Literal["f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
FlashAttn = Literal["auto", "on", "off"]


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
