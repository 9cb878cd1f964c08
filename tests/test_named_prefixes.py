"""Named prefixes of a real server with the demo model: there for the first request, and again after a restart."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server

pytestmark = pytest.mark.model

SYSTEM = "You keep the harbour's book. You know each boat and its captain, and you answer in one short sentence. " * 8


def _ask(server: ServerProcess, question: str, system: str = SYSTEM) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    body = {"model": "m", "messages": messages, "temperature": 0, "max_tokens": 12}
    response = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=60)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_system_prompt_is_computed_once_for_two_servers(tmp_path: Path) -> None:
    config, kept = tmp_path / "slotwise.toml", tmp_path / "kept"
    (tmp_path / "harbour.txt").write_text(SYSTEM)
    config.write_text(f'prefix_cache = "{kept}"\n[prefix.harbour]\nfile = "{tmp_path}/harbour.txt"\n')
    arguments = [
        f"m={demo_model_path()}",
        "--config",
        str(config),
        "--num-parallel",
        "2",
        "--context",
        "1024",
        "--reproducible",
    ]
    answers, written = [], []
    for run in range(2):
        with run_server(tmp_path / f"log{run}", *arguments) as server:
            answers.append(_ask(server, "Whose is the Anna?"))
            (file,) = kept.iterdir()
            written.append(file.stat().st_mtime_ns)
            # Others take both slots; what they leave is not the prefix.
            for number in range(4):
                _ask(server, "Hello?", system=f"{number} is who you are, and nothing else matters to you. " * 8)
            answers.append(_ask(server, "Whose is the Bertha?"))

    assert written[0] == written[1]
    assert all(_cached(answer) > 160 for answer in answers), [_cached(answer) for answer in answers]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[:2] == texts[2:]
    with run_server(tmp_path / "plain", *arguments[:1], *arguments[3:]) as server:
        plain = _ask(server, "Whose is the Anna?")
    assert _cached(plain) == 0
    assert plain["choices"][0]["message"]["content"] == texts[0]
