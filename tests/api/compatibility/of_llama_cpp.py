"""llama-server's endpoint for editors."""

from slotwise.api import fields
from slotwise.api.asked import NOBODY
from slotwise.api.infill import InfillRequest, parse_infill
from tests.api.compatibility.endpoint import Endpoint


def _parse(body: bytes) -> InfillRequest:
    data = fields.parse_object(body)
    return parse_infill(data, data["model"], 512, NOBODY)


ENDPOINTS: dict[str, Endpoint] = {
    "POST /infill": Endpoint(
        _parse,
        {"model": "m", "input_prefix": "a", "input_suffix": "b"},
        {
            "model": "other",
            "input_prefix": "x",
            "input_suffix": "x",
            "prompt": "x",
            "input_extra": [{"text": "x"}],
            "n_predict": 5,
            "response_fields": ["content"],
            "temperature": 0.1,
            "top_p": 0.1,
            "top_k": 3,
            "min_p": 0.2,
            "seed": 7,
            "stop": ["x"],
            "stream": True,
            "repeat_penalty": 1.2,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.5,
            "samplers": ["top_k"],
            "n_indent": 4,
            "t_max_prompt_ms": 5,
            "t_max_predict_ms": 5,
            "cache_prompt": False,
            "id_slot": 1,
        },
    ),
}
