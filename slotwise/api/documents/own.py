"""What the server tells of itself: its models in three dialects, its state, its queue."""

from __future__ import annotations

from slotwise.api.documents.parts import (
    ALWAYS,
    AMOUNT,
    BOOLEAN,
    COUNT,
    OBJECT,
    READS,
    STRING,
    Json,
    body,
    bounded,
    errors,
    in_path,
    listed,
    named,
    nullable,
    one_of,
    record,
    ref,
    reply,
    text,
)
from slotwise.api.fields import MAX_NAME_LENGTH
from slotwise.scheduler.account import Bound
from slotwise.scheduler.counters import DEATH_CAUSES

_STATES = one_of(["unloaded", "starting", "ready", "draining", "failed"])
_PERCENT = bounded("integer", 0, 100)
_MAYBE_COUNT, _MAYBE_STRING = nullable(COUNT), nullable(STRING)

# ---- models

_ROUTED = record(
    {"value": one_of(["loaded", "loading", "unloaded"])},
    {"failed": {"const": True}, "failure": STRING, "progress": _PERCENT},
)
_CARD: Json = {
    "id": STRING,
    "object": {"const": "model"},
    "type": {"const": "model"},
    "display_name": STRING,
    "created_at": {"type": "string", "format": "date-time"},
    "max_input_tokens": COUNT,
    "max_tokens": COUNT,
    "created": COUNT,
    "owned_by": STRING,
    "name": STRING,
    "state": _STATES,
    "status": _ROUTED,
    "load_progress": _PERCENT,
    "failure": _MAYBE_STRING,
    "max_model_len": COUNT,
    "context_length": COUNT,
    "context": record({"per_request": COUNT, "train": _MAYBE_COUNT}),
    "slots": record({"total": COUNT, "free": COUNT}),
    "capabilities": listed(one_of(["completion", "tools", "insert", "thinking", "embedding", "rerank"])),
    "architecture": record({"input_modalities": listed(STRING), "output_modalities": listed(STRING)}),
    "meta": record(
        {
            **dict.fromkeys(("n_ctx_train", "n_embd", "n_params", "size"), _MAYBE_COUNT),
            "architecture": STRING,
            "quantization": STRING,
        }
    ),
}
_STUDIO = record(
    {
        "id": STRING,
        "object": {"const": "model"},
        "type": one_of(["llm", "embeddings"]),
        "publisher": STRING,
        "arch": STRING,
        "compatibility_type": STRING,
        "quantization": STRING,
        "state": one_of(["loaded", "not-loaded"]),
        "max_context_length": COUNT,
        "capabilities": listed(STRING),
    },
    {"loaded_context_length": COUNT},
)


def _list_of(card: str) -> Json:
    return record({"object": {"const": "list"}, "data": listed(ref(card))})


# ---- state and queue

_INFO = record(
    {
        **dict.fromkeys(("slots", "kv_cells", "context_cap", "context_train", "vocab_size", "n_params"), COUNT),
        **dict.fromkeys(("size_bytes", "rows", "draft_rows", "vector_length"), COUNT),
        **dict.fromkeys(("has_chat_template", "use_extra_bufts", "offloaded"), BOOLEAN),
        **dict.fromkeys(("architecture", "reuse", "pooling"), STRING),
        "kv_layout": one_of(["unified", "split"]),
    }
)
_WAITS = record(
    {
        "count": COUNT,
        **dict.fromkeys(("predicted_s", "waited_s", "ratio_sum"), AMOUNT),
        "ratios": listed(COUNT),
    }
)
_ACCOUNT = record(
    {
        "bound": record(dict.fromkeys((one.value for one in Bound), AMOUNT)),
        **dict.fromkeys(("slot_s", "busy_s", "cell_s", "reserved_s", "waiting_s", "limited_s"), AMOUNT),
        **dict.fromkeys(("most_busy", "most_reserved", "longest", "too_long", "longest_refused"), COUNT),
        "waits": _WAITS,
    }
)
_MODEL = record(
    {
        "model": STRING,
        "state": _STATES,
        **dict.fromkeys(("slots", "active_limit", "busy_slots", "waiting", "kv_cells", "reserved_cells"), COUNT),
        **dict.fromkeys(("context_cap", "workers", "replicas", "restarts", "admitted"), COUNT),
        **dict.fromkeys(("cell_bytes", "sequence_bytes"), COUNT),
        "predicted_wait_s": AMOUNT,
        "failure": _MAYBE_STRING,
        "worker_id": _MAYBE_COUNT,
        "pinned": BOOLEAN,
        "info": nullable(_INFO),
        "load_stage": STRING,
        "load_progress": bounded("number", 0, 1),
        **{
            f"{name}_total": COUNT
            for name in (
                *("output_tokens", "prompt_tokens", "cached_tokens", "steps", "decode_rows", "prefill_tokens"),
                *("no_cells", "drafted", "drafts_accepted", "pauses", "resizes", "continued", "moved"),
                *("answer_steps", "slow_steps", "predicted_steps", "loads"),
            )
        },
        **{
            f"{name}_seconds_total": AMOUNT
            for name in ("step", "resize", "load", "step_predicted", "predicted_steps", "step_prediction_error")
        },
        "account": _ACCOUNT,
        "deaths_total": record(dict.fromkeys(DEATH_CAUSES, COUNT)),
        **dict.fromkeys(("cells_used", "cells_retained", "host_bytes"), COUNT),
    }
)
_BY_DEVICE = named(COUNT)
_MEMORY = record(
    {
        "devices": named(
            record(
                {
                    "budget_bytes": COUNT,
                    "budget_at_start_bytes": COUNT,
                    "reserved_bytes": COUNT,
                    "measured_bytes": _MAYBE_COUNT,
                    "free_bytes": COUNT,
                }
            )
        ),
        "workers": listed(
            record(
                {"model": STRING, "worker_id": COUNT, "place": COUNT}
                | dict.fromkeys(("reserved_bytes", "measured_bytes", "peak_bytes"), _BY_DEVICE)
            )
        ),
    }
)
_STATUS = record(
    {"version": STRING, "uptime_s": AMOUNT, "draining": BOOLEAN, "models": listed(_MODEL), "memory": _MEMORY}
)
_SECONDS = bounded("number", 0)
_STANDING = record(
    {
        "request_id": STRING,
        "choice": COUNT,
        "model": STRING,
        "state": one_of(["waiting", "paused", "running"]),
        "waited_s": AMOUNT,
        "position": bounded("integer", 1),
        "predicted_start_s": _SECONDS,
    }
)
_LINE = record(
    {"model": STRING, "state": STRING, "running": COUNT, "waiting": COUNT, "slots": COUNT, "predicted_wait_s": _SECONDS}
)
_QUEUE = record({"requests": listed(_STANDING), "requests_total": COUNT, "models": listed(_LINE)})
SCHEMAS: Json = {
    "NamedModel": record({"model": text(1, MAX_NAME_LENGTH)}),
    "ModelCard": record(_CARD),
    "RoutedModel": record(_CARD | {"in_cache": {"const": True}}),
    "StudioModel": _STUDIO,
    "Models": record(
        {
            "object": {"const": "list"},
            "data": listed(ref("ModelCard")),
            "has_more": {"const": False},
            "first_id": _MAYBE_STRING,
            "last_id": _MAYBE_STRING,
        }
    ),
    "RoutedModels": _list_of("RoutedModel"),
    "StudioModels": _list_of("StudioModel"),
    "Done": record({"success": {"const": True}}),
    "Health": record({"status": {"const": "ok"}}),
    "Readiness": record({"status": one_of(["ready", "not ready"]), "draining": BOOLEAN, "models": named(_STATES)}),
    "Status": _STATUS,
    "Queue": _QUEUE,
}


def _read(summary: str, schema: Json, *, kind: str = "application/json", statuses: tuple[str, ...] = ALWAYS) -> Json:
    return {"get": {"summary": summary, "responses": {"200": reply("OK", schema, kind)} | errors("Error", statuses)}}


def _one(summary: str, schema: str) -> Json:
    item = _read(summary, ref(schema), statuses=(*ALWAYS, "404"))
    item["get"]["parameters"] = [in_path("model_id")]
    return item


def _order(summary: str) -> Json:
    """Something that is done with a model, by those who may."""
    responses = {"200": reply("It is being done", ref("Done"))} | errors("Error", (*READS, "404", "409", "503"))
    return {"post": {"summary": summary, "requestBody": body(ref("NamedModel")), "responses": responses}}


def paths() -> Json:
    """By path, what is served there."""
    ready = _read("The server takes requests", ref("Readiness"), statuses=("431", "500"))
    ready["get"]["responses"]["503"] = reply("Draining, or no model can be loaded", ref("Readiness"))
    return {
        "/v1/models": _read("The models there are", ref("Models")),
        "/v1/models/{model_id}": _one("One model", "ModelCard"),
        "/models": _read("The models there are, as llama.cpp's router lists them", ref("RoutedModels")),
        "/models/load": _order("Load a model before anybody asks for it"),
        "/models/unload": _order("Give a model's memory back as soon as nobody uses it"),
        "/api/v0/models": _read("The models there are, as LM Studio lists them", ref("StudioModels")),
        "/api/v0/models/{model_id}": _one("One model, as LM Studio tells of it", "StudioModel"),
        "/v1/slotwise/status": _read(
            "Slots, queue, cells and counters of every model, and what workers take of the memory", ref("Status")
        ),
        "/v1/slotwise/queue": _read(
            "The caller's requests that wait or run, and the lines of its models", ref("Queue")
        ),
        "/health": _read("The server is alive", ref("Health"), statuses=("431", "500")),
        "/ready": ready,
        "/metrics": _read("Prometheus metrics", STRING, kind="text/plain"),
        "/openapi.json": _read("This document", OBJECT),
    }
