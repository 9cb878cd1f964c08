"""Series: the figures of the service, by names that only the configuration can make."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slotwise.api.app import create_app
from slotwise.api.metrics import Metrics
from slotwise.errors import ModelNotFound
from slotwise.scheduler.events import BookUsage
from slotwise.scheduler.shares import Flow
from tests.api.fakes import Client, FakeGeneration, memory_of_two_models, served

EXPECTED = {
    "requests_running",
    "requests_waiting",
    "request_queue_time_seconds",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "prompt_tokens",
    "generation_tokens",
    "cached_prompt_tokens",
    "kv_cells_reserved",
    "kv_cells_used",
    "kv_cells_capacity",
    "slots",
    "slots_busy",
    "requests",
    "requests_rejected",
    "retried_requests",
    "client_disconnects",
    "worker_restarts",
}


def _series(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_names_are_there_and_all_are_ours() -> None:
    text = Metrics(FakeGeneration().status).render().decode()
    names = {family.name for family in text_string_to_metric_families(text)}

    assert {f"slotwise_{name}" for name in EXPECTED} <= names
    assert all(name.startswith("slotwise_") for name in names)


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ("slotwise_requests_running", 1),
        ("slotwise_requests_waiting", 2),
        ("slotwise_slots", 4),
        ("slotwise_slots_busy", 1),
        ("slotwise_kv_cells_capacity", 1000),
        ("slotwise_kv_cells_reserved", 300),
        ("slotwise_kv_cells_used", 77),
        ("slotwise_generation_tokens_total", 9),
        ("slotwise_prompt_tokens_total", 11),
        ("slotwise_worker_restarts_total", 3),
        ("slotwise_model_ready", 1),
    ],
)
def test_a_scrape_reads_the_service(series: str, value: float) -> None:
    model = served("a", cells={1: (70, 0, 0), 2: (7, 0, 0)}, output_tokens_total=9, prompt_tokens_total=11)
    found = _series(Metrics(FakeGeneration(model).status).render().decode())

    assert found[f"{series}[('model', 'a')]"] == value


def test_workers_memory_is_of_each_model_and_device_and_what_is_not_known_is_not_there() -> None:
    found = _series(Metrics(FakeGeneration().status, memory=memory_of_two_models).render().decode())

    shown = {name: value for name, value in found.items() if name.startswith("slotwise_worker_memory")}
    assert shown == {
        "slotwise_worker_memory_reserved_bytes[('device', 'host'), ('model', 'a')]": 120,
        "slotwise_worker_memory_reserved_bytes[('device', 'gpu0'), ('model', 'a')]": 50,
        "slotwise_worker_memory_reserved_bytes[('device', 'host'), ('model', 'b')]": 10,
        "slotwise_worker_memory_reserved_bytes[('device', 'gpu1'), ('model', 'b')]": 40,
        "slotwise_worker_memory_reserved_bytes[('device', 'gpu2'), ('model', 'b')]": 0,
        "slotwise_worker_memory_bytes[('device', 'gpu2'), ('model', 'b')]": 1,
        "slotwise_worker_memory_peak_bytes[('device', 'gpu2'), ('model', 'b')]": 1,
        "slotwise_worker_memory_bytes[('device', 'host'), ('model', 'a')]": 85,
        "slotwise_worker_memory_bytes[('device', 'host'), ('model', 'b')]": 5,
        "slotwise_worker_memory_bytes[('device', 'gpu1'), ('model', 'b')]": 30,
        "slotwise_worker_memory_peak_bytes[('device', 'host'), ('model', 'a')]": 106,
        "slotwise_worker_memory_peak_bytes[('device', 'host'), ('model', 'b')]": 5,
        "slotwise_worker_memory_peak_bytes[('device', 'gpu1'), ('model', 'b')]": 33,
    }


async def test_a_scrape_has_the_content_type_and_counts_by_outcome() -> None:
    service = FakeGeneration()
    service.answer = ["x", "y"]
    app = create_app(service)
    body = {"model": "m", "prompt": "x"}
    for headers in ({}, {"x-stainless-retry-count": "1"}, {"x-stainless-retry-count": "0"}):
        await Client(app, "/v1/completions", body, headers=headers).run()
    client = await Client(app, "/metrics", b"", method="GET").run()

    found = _series(client.text)
    assert client.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert found["slotwise_requests_total[('model', 'm'), ('outcome', 'completed')]"] == 3
    assert found["slotwise_retried_requests_total[]"] == 1
    assert found["slotwise_e2e_request_latency_seconds_count[('model', 'm')]"] == 3


async def test_names_that_clients_invent_make_no_series() -> None:
    service = FakeGeneration()
    service.refusal = ModelNotFound("no")
    app = create_app(service)
    for index in range(20):
        await Client(app, "/v1/completions", {"model": f"invented-{index}", "prompt": "x"}).run()
        await Client(app, f"/invented-{index}", b"", method="GET").run()
        await Client(app, "/v1/completions", {f"invented-{index}": 1}).run()
    client = await Client(app, "/metrics", b"", method="GET").run()

    assert "invented" not in client.text
    assert _series(client.text)["slotwise_requests_total[('model', 'unknown'), ('outcome', 'refused')]"] == 20


def test_keys_that_clients_make_up_make_no_series() -> None:
    names = {"ann"}
    metrics = Metrics(FakeGeneration().status, names)
    for key in ("", "ann", *(f"invented-{number}" for number in range(20))):
        metrics.book(BookUsage(key, Flow(key), "m", "completed", 7, 2, 3, 0.0, 0.5))
    names.add("bob")
    metrics.book(BookUsage("r", Flow("bob"), "m", "cancelled", 7, 2, 3, 0.0, 0.5))
    found = _series(metrics.render().decode())

    assert found["slotwise_key_prompt_tokens_total[('key', '(none)')]"] == 7
    assert found["slotwise_key_cached_prompt_tokens_total[('key', 'ann')]"] == 2
    assert found["slotwise_key_run_seconds_total[('key', '(others)')]"] == 10
    assert found["slotwise_key_requests_total[('key', 'bob'), ('outcome', 'cancelled')]"] == 1
    assert not any("invented" in name for name in found)


def test_two_servers_share_no_series() -> None:
    first, second = Metrics(FakeGeneration().status), Metrics(FakeGeneration(served("other")).status)
    first.disconnects.inc()

    assert "slotwise_client_disconnects_total 0.0" in second.render().decode()


def test_waits_are_counted_by_what_they_were_of_their_predictions() -> None:
    model = served("a")
    for predicted, waited in ((0.0, 0.01), (2.0, 1.0), (2.0, 2.0), (2.0, 20.0)):
        model.account.waits.observe(predicted, waited)
    found = _series(Metrics(FakeGeneration(model).status).render().decode())
    ratios = {name: value for name, value in found.items() if name.startswith("slotwise_wait_to_predicted_ratio_b")}

    assert [ratios[name] for name in sorted(ratios)] == [3, 0, 1, 1, 2, 2, 2], "+Inf, 0.25, 0.5 …"
    assert found["slotwise_wait_to_predicted_ratio_count[('model', 'a')]"] == 3
    assert found["slotwise_wait_to_predicted_ratio_sum[('model', 'a')]"] == 11.5
    assert found["slotwise_wait_predicted_seconds_total[('model', 'a')]"] == 6.0
    assert found["slotwise_predicted_waits_seconds_total[('model', 'a')]"] == pytest.approx(23.01)
