"""`slotwise keys`, as somebody uses it; and a real server that follows."""

import json
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from slotwise.cli import app
from slotwise.keys.store import KeyStore
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import KeyPolicy
from tests.server_process import run_server
from tests.waiting import wait_for


def _run(folder: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments, "--data", str(folder)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_a_key_is_made_with_what_it_may(tmp_path: Path) -> None:
    limits = "--weight 2 --priority high --max-parallel 3 --max-queued 5 --tokens-per-minute 1000 --context-cap 2048"
    secret = _run(tmp_path, "add", "ann", *limits.split(), "--models", "a, b", "--expires", "30d").strip()
    (key,), _ = KeyStore(tmp_path).read()

    assert secret.startswith("sw-")
    assert key.policy == KeyPolicy(2.0, Priority.HIGH, 3, 5, 1000, 2048, frozenset({"a", "b"}))
    assert key.expires == pytest.approx(time.time() + 30 * 86_400, abs=60)


def test_keys_are_listed_without_their_secrets(tmp_path: Path) -> None:
    assert "there are no keys" in _run(tmp_path, "list")
    secret = _run(tmp_path, "add", "ann").strip()
    _run(tmp_path, "add", "bob")
    _run(tmp_path, "revoke", "bob")

    table, everything = _run(tmp_path, "list"), json.loads(_run(tmp_path, "list", "--all", "--json"))

    assert "ann" in table
    assert "bob" not in table
    assert secret not in table
    assert [(key["name"], key["valid"], key["shown"]) for key in everything][0] == ("ann", True, secret[:9])
    assert everything[1]["revoked"] is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "with space"), "with space"),
        (("add", "ann", "--priority", "top"), "low, normal or high"),
        (("add", "ann", "--expires", "soon"), "'soon' is no time"),
        (("add", "ann", "--models", ","), "--models"),
        (("add", "ann", "--weight", "0"), "weight"),
        (("revoke", "nobody"), "nobody"),
        (("rotate", "nobody"), "nobody"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in _run(tmp_path, *arguments, code=2)


def test_a_running_server_follows(tmp_path: Path) -> None:
    """From no keys to one, with its limits, to a revoked one."""
    data = tmp_path / "data"
    with run_server(tmp_path / "log", "m=fake:eos_after=3", "--data", str(data)) as server:

        def ask(secret: str = "") -> httpx.Response:
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            return httpx.post(f"{server.base_url}/completions", json={"model": "m", "prompt": "x"}, headers=headers)

        assert ask().status_code == 200
        secret = _run(data, "add", "ann", "--models", "other").strip()
        wait_for(lambda: ask().status_code == 401)
        refused = ask(secret)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        allowed = _run(data, "add", "bob", "--tokens-per-minute", "2").strip()
        wait_for(lambda: ask(allowed).status_code == 200)
        used_up = ask(allowed)
        assert (used_up.status_code, used_up.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(used_up.headers["retry-after"]) <= 60
        _run(data, "revoke", "ann")
        wait_for(lambda: ask(secret).status_code == 401)
        assert "revoked" in ask(secret).text
