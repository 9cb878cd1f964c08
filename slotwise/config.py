"""Where settings come from, and what can not be had together.

Sources, strongest first: command line, `SLOTWISE_*` environment, the TOML file, Ollama's environment (`ollama_env`),
the defaults of `settings`. The file's keys are the field names; models may also be tables, `[model.NAME]` with `path`
and settings that differ for this model.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slotwise.keys.store import KeyStore, KeyStoreError
from slotwise.memory.footprint import HOST
from slotwise.memory.plan import usable
from slotwise.memory.pressure import TAKEN
from slotwise.memory.probe import read_memory
from slotwise.ollama_env import Alias, aliases_of
from slotwise.origins import ANY
from slotwise.paths import data_folder
from slotwise.settings import ENV_PREFIX, ModelTable, PrefixTable, Settings

#: Cells that llama.cpp's CPU attention reads by one code path, whatever the number of rows.
REPRODUCIBLE_KV_TYPES = ("bf16", "q8_0")


class ConfigError(Exception):
    """Raised when a setting is unknown or its value is not allowed; the message names key, value and what is."""


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
