"""The load generator proved: every figure it reports is what a server in another process really did."""

import pytest

from slotwise.benchmarks.nullserver import null_server
from slotwise.benchmarks.report.figures import find
from slotwise.benchmarks.scripted import Script
from slotwise.benchmarks.selftest import Check, precision


@pytest.mark.slow
async def test_every_figure_is_within_two_percent_or_a_millisecond() -> None:
    """On a machine that does nothing else: scripts/prove."""
    checks = await precision(60.0)

    assert [f"{one.figure.key}: {one.reported} is {one.true}" for one in checks if not one.holds] == []
    shown = {one.figure.key for one in checks}
    assert {"output_tok_s", "ttft_p95", "ttft_p99", "tpot_p95", "icl_p99", "e2e_scheduled_p95", "attainment"} <= shown


async def test_the_figures_of_a_busy_machine_are_near() -> None:
    checks = {one.figure.key: one for one in await precision(2.0)}

    assert checks["output_tok_s"].reported == pytest.approx(checks["output_tok_s"].true, rel=0.1)
    assert checks["ttft_p50"].reported == pytest.approx(checks["ttft_p50"].true, abs=0.1)
    assert 0.07 < checks["ttft_p50"].true < 0.5


@pytest.mark.parametrize(
    ("reported", "true", "holds"),
    [(0.0509, 0.05, True), (0.0511, 0.05, False), (1.019, 1.0, True), (1.021, 1.0, False), (0.0, 0.0, True)],
)
def test_how_close_is_true(reported: float, true: float, holds: bool) -> None:
    assert Check(find("ttft_p50"), reported, true).holds is holds


def test_a_rate_has_no_millisecond_of_grace() -> None:
    assert not Check(find("goodput_s"), 0.0209, 0.02).holds


async def test_a_server_in_another_process_tells_what_it_did() -> None:
    with null_server(Script(ttft=0.01, gap=0.01, events=3)) as server:
        assert server.url.endswith("/v1")
        assert server.finish() == []
