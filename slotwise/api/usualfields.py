"""What bodies of OpenAI's APIs say of who asks, for which model and in which class. Pure: values out, or a 400."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slotwise.api import fields
from slotwise.request import ServiceTier

MAX_USER_LENGTH = 512


def model_of(data: Mapping[str, Any]) -> str:
    model = fields.string(data, "model", max_length=512)
    if not model:
        raise fields.invalid("model", model, "the name of a model; GET /v1/models lists them")
    return model


def user_of(data: Mapping[str, Any]) -> str:
    """The end user, by the newer of OpenAI's two names for it."""
    names = [fields.string(data, name, max_length=MAX_USER_LENGTH) for name in ("safety_identifier", "user")]
    return next((name for name in names if name), "")


def tier_of(data: Mapping[str, Any]) -> ServiceTier | None:
    """None: the key's own."""
    value = fields.string(data, "service_tier", max_length=32)
    if value in (None, "auto"):
        return None
    if value not in set(ServiceTier):
        raise fields.invalid("service_tier", value, f"one of auto, {', '.join(ServiceTier)}")
    return ServiceTier(value)
