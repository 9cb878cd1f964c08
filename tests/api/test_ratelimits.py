"""`x-ratelimit-*`: by OpenAI's names and in its forms, for keys that have limits and for nobody else."""

import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.api.app import create_app
from slotwise.api.ratelimits import duration
from slotwise.errors import ModelNotFound, ServerOverloaded, SlotwiseError
from slotwise.scheduler.admission import Allowance, Level
from tests.api.fakes import FakeGeneration, answering

LIMITS = Allowance(Level(6, 4, 0.12), Level(1000, 0, 360.0))
TOLD = {
    "x-ratelimit-limit-requests": "6",
    "x-ratelimit-remaining-requests": "4",
    "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-limit-tokens": "1000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "6m0s",
}
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.12, "120ms"),
        (0.0001, "1ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (3630, "1h0m30s"),
        (-3, "0s"),
    ],
)
def test_durations_have_openais_form(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_a_duration_is_what_it_was_or_a_little_more(seconds: float) -> None:
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", duration(seconds))
    told = sum(float(number) * UNITS[unit] for number, unit in parts)

    assert "".join(number + unit for number, unit in parts) == duration(seconds)
    assert seconds - 1e-6 <= told <= seconds + (0.0011 if seconds < 59 else 1.0011)


async def _post(service: FakeGeneration, **fields: object) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service)), base_url="http://testserver"
    ) as http:
        return await http.post("/v1/completions", json={"model": "m", "prompt": "hi"} | fields)


def _told(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}


@pytest.mark.parametrize("stream", [True, False])
async def test_answers_carry_the_limits_of_their_key(stream: bool) -> None:
    service = answering()
    assert _told(await _post(service, stream=stream)) == {}

    service.enquiries.limits = LIMITS
    assert _told(await _post(service, stream=stream)) == TOLD

    service.enquiries.limits = Allowance(tokens=LIMITS.tokens)
    assert _told(await _post(service, stream=stream)) == {name: TOLD[name] for name in TOLD if "tokens" in name}


@pytest.mark.parametrize(
    ("refusal", "told"),
    [(ServerOverloaded("full", retry_after_s=2), TOLD), (ModelNotFound("no"), {})],
)
async def test_so_do_refusals_for_what_is_used_up(refusal: SlotwiseError, told: dict[str, str]) -> None:
    service = FakeGeneration()
    service.refusal, service.enquiries.limits = refusal, LIMITS

    assert _told(await _post(service)) == told
