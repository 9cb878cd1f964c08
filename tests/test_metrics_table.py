"""docs/metrics.md against a real server that has served and refused something."""

import re
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from slotwise.keys.store import KeyStore
from slotwise.scheduler.policy import KeyPolicy
from tests.server_process import run_server

TABLE = Path(__file__).parent.parent / "docs" / "metrics.md"
GIVEN_KEY = "sw-given"
Series = tuple[str, frozenset[str]]


def _documented() -> dict[str, Series]:
    """Type and labels by name."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*)\|.+\|$", TABLE.read_text(), re.MULTILINE)
    assert len(rows) == TABLE.read_text().count("\n| `"), "a row can not be read"
    assert len({name for name, _, _ in rows}) == len(rows), "a series is there twice"
    return {name: (kind, frozenset(re.findall(r"\w+", labels))) for name, kind, labels in rows}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[Metric]:
    folder = tmp_path_factory.mktemp("metrics")
    secret = KeyStore(folder).add("ann", KeyPolicy(max_queued=0), time.time())
    # Steps take a while: else an answer may come as one chunk, and no gap between two is seen.
    arguments = ("m=fake:step_ms=30", "--context", "64", "--preload", "--data", str(folder))
    with run_server(folder / "log", *arguments, api_key=GIVEN_KEY) as server:

        def ask(key: str = secret, **fields: object) -> int:
            body = {"model": "m", "prompt": "xxxxx", "max_tokens": 4, "ignore_eos": True} | fields
            headers = {"authorization": f"Bearer {key}"}
            return httpx.post(f"{server.base_url}/completions", json=body, headers=headers, timeout=30).status_code

        assert [ask(), ask(stream=True), ask(key=GIVEN_KEY, n=2)] == [200] * 3
        assert ask(key="wrong") == 401
        assert ask(max_tokens=-1) == 400
        assert ask(prompt="x" * 100) == 400
        assert ask(model="none") == 404
        server.wait_until_measured()
        headers = {"authorization": f"Bearer {secret}"}
        text = httpx.get(f"{server.root}/metrics", headers=headers, timeout=10).text
    return list(text_string_to_metric_families(text))


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _value(families: list[Metric], name: str, **labels: str) -> float:
    (value,) = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    return value


def test_the_table_has_what_is_served_and_nothing_else(families: list[Metric]) -> None:
    served = {
        _name(family): (family.type, frozenset(label for sample in family.samples for label in sample.labels) - {"le"})
        for family in families
    }

    assert served == _documented()
    assert all(family.samples for family in families)


def test_names_keep_the_rules(families: list[Metric]) -> None:
    for family in families:
        assert family.name.startswith("slotwise_")
        assert family.documentation
        assert family.type == "counter" or not family.name.endswith("_total")
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|mib|percent)(_|$)", family.name), "base units"
    timed = {family.name for family in families if family.type == "histogram"}
    assert all(name.endswith(("_seconds", "_ratio")) for name in timed)


def test_service_is_counted_by_the_names_of_keys(families: list[Metric]) -> None:
    keys = {sample.labels["key"] for family in families for sample in family.samples if "key" in sample.labels}

    assert keys == {"ann", "(others)"}, "a key of the command line has no name"
    assert _value(families, "slotwise_key_requests_total", key="ann", outcome="completed") == 2
    assert _value(families, "slotwise_key_requests_total", key="ann", outcome="refused") == 1
    assert _value(families, "slotwise_key_requests_total", key="(others)", outcome="completed") == 2
    assert _value(families, "slotwise_key_prompt_tokens_total", key="ann") == 10
    assert _value(families, "slotwise_key_completion_tokens_total", key="ann") == 8
    assert _value(families, "slotwise_key_run_seconds_total", key="ann") > 0


def test_each_refusal_is_counted_once_wherever_it_was(families: list[Metric]) -> None:
    codes = {s.labels["code"]: s.value for family in families for s in family.samples if "code" in s.labels}

    assert codes == {"invalid_api_key": 1, "invalid_value": 1, "context_length_exceeded": 1, "model_not_found": 1}
    assert _value(families, "slotwise_requests_total", model="m", outcome="refused") == 1
    assert _value(families, "slotwise_requests_total", model="unknown", outcome="refused") == 1
    assert _value(families, "slotwise_requests_total", model="m", outcome="completed") == 3
    assert _value(families, "slotwise_requests_admitted_total", model="m") == 5, "two of n=2, and one that was too long"


def test_the_time_of_a_token_is_measured_for_each_answer(families: list[Metric]) -> None:
    assert _value(families, "slotwise_time_per_output_token_seconds_count", model="m") == 4
