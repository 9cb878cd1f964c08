"""Imports run one way, and what touches the world stays where it belongs."""

import ast
import os
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "slotwise"
MODULES = {
    ".".join(("slotwise", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
#: Modules that decide: no I/O, no clock, no event loop.
PURE = [
    *(f"slotwise.advice.{name}" for name in ("capacity", "finding", "judge", "life", "pace", "snapshot")),
    "slotwise.durations",
    "slotwise.errors",
    "slotwise.ollama_env",
    "slotwise.origins",
    "slotwise.request",
    *(
        f"slotwise.scheduler.{name}"
        for name in (
            *(
                "account",
                "active",
                "admission",
                "backlog",
                "books",
                "bounds",
                "core",
                "counters",
                "demand",
                "events",
                "fairline",
                "gate",
                "lengths",
            ),
            *(
                "lifecycle",
                "outlook",
                "patience",
                "peak",
                "placement",
                "policy",
                "preemption",
                "ranking",
                "rates",
                "records",
            ),
            *("measured", "residency", "room", "shares", "tally", "turns"),
        )
    ),
    "slotwise.keys.secret",
    "slotwise.usage.entry",
    *(f"slotwise.workers.{name}" for name in ("batch", "cells", "cost", "frames", "hostcache", "lookup", "model")),
    "slotwise.workers.attaching",
    *(f"slotwise.workers.{name}" for name in ("prefixes", "protocol", "sequences", "speculation", "split", "text")),
    "slotwise.workers.inputs",
    "slotwise.workers.packing",
    "slotwise.workers.unified",
    "slotwise.workers.layout",
    "slotwise.workers.visible",
    *(f"slotwise.workers.{name}" for name in ("chatform", "logprobs", "quoting")),
    *(
        f"slotwise.memory.{name}"
        for name in (
            *("accounts", "architectures", "correction", "footprint", "ggml_types", "ledger", "plan", "pressure"),
            "shape",
        )
    ),
    *(
        f"slotwise.api.{name}"
        for name in (
            *(
                "access",
                "asked",
                "cors",
                "embeddingschema",
                "errorbodies",
                "fields",
                "messages",
                "modelcards",
                "openai",
            ),
            *("pieces", "schema", "schemas", "shape", "sse", "suitable", "telling", "toolfields"),
            *("usualfields", "vectors"),
        )
    ),
    *(f"slotwise.api.{name}" for name in ("numerals", "thinking")),
    *(
        f"slotwise.api.documents.{name}"
        for name in (
            *("anthropic", "answers", "ollama", "ollama_answers", "openai", "own", "parts", "requests", "responses"),
            "whole",
        )
    ),
    *(f"slotwise.api.anthropic.{name}" for name in ("blocks", "errors", "schema", "telling")),
    *(f"slotwise.api.responses.{name}" for name in ("items", "output", "schema", "settings", "store", "telling")),
    *(
        f"slotwise.api.ollama.{name}"
        for name in ("embedding", "messages", "models", "names", "options", "schema", "store", "telling")
    ),
    *(
        f"slotwise.api.formats.{name}"
        for name in (
            *(
                "arrange",
                "bare",
                "block",
                "blocks",
                "detect",
                "families",
                "forced",
                "harmony",
                "history",
                "lark",
                "parser",
            ),
            *("parser", "thoughts", "toolbox"),
        )
    ),
    "slotwise.workers.marks",
    *(
        f"slotwise.benchmarks.{name}"
        for name in (
            *("arrivals", "asks", "capacity", "conditions", "document", "findings", "health", "judge", "lengths"),
            *("hardware", "metrics", "pacing", "plan", "prompts", "records", "scenarios", "stats", "talks", "traces"),
            *("calibration.fit", "calibration.observations"),
            *(
                f"simulation.{part}"
                for part in ("engine", "memory", "people", "server", "talking", "timeline", "worker")
            ),
            *(f"tuning.{part}" for part in ("candidates", "explaining", "judging", "workloads")),
        )
    ),
    *(f"slotwise.benchmarks.report.{name}" for name in ("comparing", "figures", "headline", "markup", "overview")),
]
IMPURE_LIBRARIES = {"anyio", "asyncio", "httpx", "os", "psutil", "pynvml", "socket", "subprocess", "threading", "time"}
#: Library -> the only modules that may import it.
OWNERS = {
    "matplotlib": {"slotwise.benchmarks.report.drawing"},
    "llama_cpp": {
        f"slotwise.workers.llama.{name}"
        for name in ("batch", "breakdown", "dryrun", "embedder", "library", "model", "params", "samplers", "vocabulary")
    }
    | {"slotwise.benchmarks.constrained"},
    "llguidance": {"slotwise.workers.grammar"},
    "psutil": {"slotwise.memory.probe"},
    "sqlite3": {"slotwise.database", "slotwise.keys.store", "slotwise.load_store", "slotwise.usage.store"},
    "pynvml": {"slotwise.memory.probe"},
    "uvicorn": {"slotwise.connection", "slotwise.server"},
}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


IMPORTS = {name: _imports(path) for name, path in MODULES.items()}


def _importers(prefix: str) -> set[str]:
    return {
        name
        for name, imports in IMPORTS.items()
        if not name.startswith(prefix) and any(i == prefix or i.startswith(f"{prefix}.") for i in imports)
    }


@pytest.mark.parametrize("module", PURE)
def test_modules_that_decide_touch_nothing(module: str) -> None:
    top_level = {name.partition(".")[0] for name in IMPORTS[module]}

    assert not top_level & IMPURE_LIBRARIES


@pytest.mark.parametrize(("library", "owners"), OWNERS.items())
def test_a_library_has_one_owner(library: str, owners: set[str]) -> None:
    assert _importers(library) == owners


def test_starlette_lives_only_in_the_api() -> None:
    outside = {name for name in _importers("starlette") if not name.startswith("slotwise.api")}

    # The server names the type of what it serves, nothing more.
    assert outside <= {"slotwise.server"}


def test_only_the_service_imports_the_api_and_only_the_command_line_the_service() -> None:
    assert _importers("slotwise.api") == {"slotwise.service"}
    assert _importers("slotwise.service") == {"slotwise.cli"}


def test_workers_know_nothing_of_scheduler_or_api() -> None:
    for name, imports in IMPORTS.items():
        if name.startswith("slotwise.workers"):
            assert not any(i.startswith(("slotwise.scheduler", "slotwise.api")) for i in imports), name


def test_the_scheduler_knows_only_the_seam_of_the_workers() -> None:
    for name, imports in IMPORTS.items():
        if name.startswith("slotwise.scheduler"):
            workers = {i for i in imports if i.startswith("slotwise.workers.")}
            assert all(i.startswith("slotwise.workers.protocol") for i in workers), name


def test_memory_is_the_lowest_layer() -> None:
    for name, imports in IMPORTS.items():
        if name.startswith("slotwise.memory"):
            assert all(i.startswith("slotwise.memory") for i in imports if i.startswith("slotwise")), name


def test_the_usage_ledger_knows_nothing_of_those_who_write_it() -> None:
    allowed = ("slotwise.usage", "slotwise.database", "slotwise.commands", "slotwise.paths")
    for name, imports in IMPORTS.items():
        if name.startswith("slotwise.usage"):
            assert all(i.startswith(allowed) for i in imports if i.startswith("slotwise")), name


def test_nothing_deserialises_or_evaluates_what_it_is_given() -> None:
    for name, path in MODULES.items():
        assert not {"pickle", "marshal", "shelve", "yaml"} & IMPORTS[name], name
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            assert not (isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec")), name
            assert not any(keyword.arg == "shell" for keyword in call.keywords), name


def test_the_server_asks_nobody_else() -> None:
    """No URL of a request is ever fetched: nothing that serves one has what that takes."""
    clients = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "urllib", "urllib3"}
    having = {name for name, imports in IMPORTS.items() if {i.partition(".")[0] for i in imports} & clients}
    connecting = {
        name for name, path in MODULES.items() if {"open_connection", "create_connection", "connect_tcp"} & _calls(path)
    }

    commands = {"slotwise.ps", "slotwise.doctor"}  # clients of a running server
    assert {name for name in having | connecting if not name.startswith("slotwise.benchmarks")} <= commands


def _calls(path: Path) -> set[str]:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {call.attr for call in calls if isinstance(call, ast.Attribute)}


def test_the_command_line_starts_without_the_server() -> None:
    assert not {i.partition(".")[0] for i in _imports_at_top("slotwise.cli")} & {"llama_cpp", "starlette", "uvicorn"}


def _imports_at_top(module: str, seen: set[str] | None = None) -> set[str]:
    """What importing a module imports, through our own modules."""
    seen = set() if seen is None else seen
    found: set[str] = set()
    for node in ast.parse(MODULES[module].read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    for name in list(found):
        if name in MODULES and name not in seen:
            seen.add(name)
            found |= _imports_at_top(name, seen)
    return found


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="only where there are several processes")
def test_tests_of_a_file_run_in_one_process(request: pytest.FixtureRequest) -> None:
    """Versions of pytest and xdist that do not fit each other lose the groups of conftest.py without a word."""
    assert request.node.nodeid.endswith("@tests/test_architecture.py")
