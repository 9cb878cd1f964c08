"""The options that several commands of `slotwise bench` have in common, each written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

LOAD, SERVER, OUTPUT, PEERS = "Load", "Server", "Output", "Peers"


def _option(help_text: str, panel: str, *, flag: str = "", show: bool = False, **more: Any) -> Any:
    """`flag`: its only spelling, where there is to be no --no-… beside it."""
    names = (flag,) if flag else ()
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=show, **more)


#: Name -> type with its help, and default.
_SERVER_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": (Annotated[list[str] | None, _option("Model to ask; default: the first.", SERVER)], None),
    "api_key": (Annotated[list[str] | None, _option("API keys, in turn.", SERVER, envvar="SLOTWISE_BENCH_KEY")], None),
    "context": (
        Annotated[int | None, _option("Most tokens of a request; default: as the server says.", SERVER, min=128)],
        None,
    ),
    "timeout": (Annotated[float, _option("Seconds without an event.", SERVER, min=0.1, show=True)], 120.0),
    "tokenizer": (
        Annotated[str | None, _option("Model file to count tokens with, for servers that do not tell.", SERVER)],
        None,
    ),
    "natural_length": (
        Annotated[
            bool,
            _option(
                "Answers may end where the model ends them: for servers without ignore_eos.",
                SERVER,
                flag="--natural-length",
            ),
        ],
        False,
    ),
    "extra": (Annotated[str | None, _option("JSON object added to each body.", SERVER)], None),
}
_LENGTHS: dict[str, tuple[Any, Any]] = {
    "seconds": (Annotated[float | None, _option("Measured part of each leg.", LOAD, min=1)], None),
    "warmup": (Annotated[float | None, _option("Seconds before it.", LOAD, min=0)], None),
    "prompt": (Annotated[str | None, _option("Prompt tokens, as 128 or 32-512.", LOAD)], None),
    "output": (Annotated[str | None, _option("Output tokens, the same way.", LOAD)], None),
    "scale_lengths": (Annotated[float, _option("All lengths so many times as long.", LOAD, min=0.001)], 1.0),
    "seed": (Annotated[int, _option("The same lengths and arrivals again.", LOAD, show=True)], 1),
    "slo": (
        Annotated[
            str | None,
            _option("Limits: chat, interactive, agent, batch, cpu-box, or ttft=2,tpot=0.1,e2e=15.", LOAD),
        ],
        None,
    ),
}
_LOADS: dict[str, tuple[Any, Any]] = {
    "users": (Annotated[str | None, _option("People, as 8 or 1,2,4,8.", LOAD)], None),
    "rate": (Annotated[float | None, _option("Requests per second of open loops.", LOAD)], None),
    "arrivals": (Annotated[str | None, _option("How they come: poisson, gamma, constant or ramp.", LOAD)], None),
    "shape": (Annotated[float | None, _option("Of gamma: below 1 comes in bursts.", LOAD)], None),
    "capacity": (
        Annotated[float | None, _option("Requests/s that rates are shares of; else it is measured.", LOAD, min=0.001)],
        None,
    ),
    "trace": (Annotated[Path | None, _option("JSONL of requests to replay.", LOAD)], None),
    "time_scale": (Annotated[float, _option("The trace so many times as slow.", LOAD, min=0.001)], 1.0),
}
_OUTPUTS: dict[str, tuple[Any, Any]] = {
    "json": (Annotated[Path | None, _option("Keep everything here.", OUTPUT)], None),
    "html": (Annotated[Path | None, _option("A page with plots.", OUTPUT)], None),
    "png": (Annotated[Path | None, _option("A folder for the plots as PNG.", OUTPUT)], None),
    "requests": (Annotated[Path | None, _option("JSONL, a line a request.", OUTPUT)], None),
    "fail_if": (
        Annotated[list[str] | None, _option("'ttft_p95>1.2x' (of the first server) or 'ttft_p95>2'.", OUTPUT)],
        None,
    ),
}
#: What every benchmark has, and what one has whose load may be changed in kind.
MEASURING = _SERVER_OPTIONS | _LENGTHS | _OUTPUTS
LOADING = _SERVER_OPTIONS | _LENGTHS | _LOADS | _OUTPUTS
#: Of a simulation, which asks no server.
SIMULATING = _LENGTHS | _LOADS | {name: _OUTPUTS[name] for name in ("json", "html", "png")}
Given = dict[str, Any]


def with_options(shared: dict[str, tuple[Any, Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command these options beside its own parameters; all reach it together, as its first one, by name."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in list(inspect.signature(command).parameters.items())[1:]
        ]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in shared.items()
        ]

        def called(**values: Any) -> None:
            command(values, **{parameter.name: values[parameter.name] for parameter in own})

        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *more]}
        called.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
        return called

    return decorate
