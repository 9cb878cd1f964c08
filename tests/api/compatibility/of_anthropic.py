"""Anthropic's endpoint that takes a body."""

from anthropic.types import message_create_params as anthropic_messages

from slotwise.api.anthropic.schema import parse_messages
from tests.api.compatibility.endpoint import FACTS, USER, Endpoint

ANTHROPIC_TOOL = {"name": "f", "input_schema": {"type": "object", "properties": {}}}
ENDPOINTS: dict[str, Endpoint] = {
    "POST /v1/messages": Endpoint(
        lambda body: parse_messages(body, catalogue=FACTS),
        {"model": "m", "max_tokens": 9, "messages": [USER]},
        {
            "model": "other",
            "max_tokens": 5,
            "messages": [USER, {"role": "assistant", "content": "x"}, USER],
            "system": "x",
            "stop_sequences": ["x"],
            "temperature": 0.1,
            "top_p": 0.1,
            "top_k": 3,
            "tools": [ANTHROPIC_TOOL],
            "tool_choice": {"type": "any"},
            "thinking": {"type": "disabled"},
            "output_config": {"effort": "low"},
            "output_format": {"type": "json_schema", "schema": {"type": "object"}},
            "metadata": {"user_id": "ann"},
            "service_tier": "standard_only",
            "stream": True,
            "keep_alive": "5m",
            "chat_template_kwargs": {"a": 1},
            "cache_control": {"type": "ephemeral"},
            "diagnostics": {"previous_message_id": "x"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
            "inference_geo": "eu",
            "user_profile_id": "x",
            "workspace_id": "x",
            "container": "x",
            "mcp_servers": [{"type": "url", "url": "https://x"}],
            "speed": "fast",
            "chat_template": "x",
        },
        {"tool_choice": {"tools": [ANTHROPIC_TOOL]}},
        frozenset(anthropic_messages.MessageCreateParamsBase.__annotations__) | {"stream"},
    ),
}
