"""/openapi.json is what the server does: thousands of requests made of it, by schemathesis, against real processes.

None is answered with a 5xx (but for the 501 of what is refused by design), with a status, a header, a type or a body
that is not documented, nor with a member that is not. What does not fit the document is refused, what fits is taken.
Prints how many there were: `scripts/prove -s -k openapi`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzzing import Outcome, document_of, fuzz, of_models
from tests.server_process import ServerProcess, run_server
from tests.tiny_models import write_encoder

MODELS = {"text": "writes", "embedding": "embeds", "rank": "ranks"}
SEED = 8


@contextmanager
def _serve(folder: Path, api_key: str | None = None) -> Iterator[ServerProcess]:
    config = folder / "slotwise.toml"
    config.write_text(
        f"""
        [model.writes]
        path = "fake:eos_after=4,infills=1"
        [model.embeds]
        path = "fake:"
        kind = "embedding"
        [model.ranks]
        path = "{write_encoder(folder, "rank")}"
        """
    )
    # A context in which what is made up mostly has room, and an answer without a limit ends within a minute.
    arguments = ("--config", str(config), "--context", "8192", "--preload", "--data", str(folder / "data"))
    with run_server(folder / "log", *arguments, api_key=api_key) as running:
        yield running


def _fuzz(server: ServerProcess, folder: Path, cases: int, phases: str, *only: str) -> Outcome:
    outcome = fuzz(
        server, of_models(document_of(server), MODELS), folder, cases=cases, seed=SEED, phases=phases, only=only
    )
    print(f"{outcome.cases} cases, seed {SEED}")  # noqa: T201
    assert outcome.passed, outcome.output
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()
    return outcome


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_requests_find_no_fault(tmp_path: Path) -> None:
    with _serve(tmp_path) as server:
        assert sum(_fuzz(server, tmp_path, 330, phase).cases for phase in ("coverage", "fuzzing")) >= 20_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nor_do_thousands_with_a_key(tmp_path: Path) -> None:
    with _serve(tmp_path, "sk-right") as server:
        assert _fuzz(server, tmp_path, 20, "coverage,fuzzing").cases >= 5_000


def test_some_hundred_requests_find_no_fault(tmp_path: Path) -> None:
    paths = ("/v1/models/{model_id}", "/v1/embeddings", "/tokenize", "/api/embed", "/api/show", "/api/blobs/{digest}")
    with _serve(tmp_path) as server:
        assert _fuzz(server, tmp_path, 5, "coverage", *paths).cases >= 300
