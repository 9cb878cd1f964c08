"""The command line. Only `serve` imports the server; the other commands start at once."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer

from slotwise import __version__
from slotwise.benchmarks.cli import app as bench
from slotwise.benchmarks.simulation.cli import simulate
from slotwise.benchmarks.tuning.cli import tune
from slotwise.commands import out, refused
from slotwise.config import ConfigError, load_settings
from slotwise.doctor import doctor
from slotwise.fit import fit
from slotwise.keys.cli import app as keys
from slotwise.ps import ps
from slotwise.settings import Settings
from slotwise.usage.cli import usage

logger = logging.getLogger(__name__)

#: Settings in bytes, which help shows in MiB.
_SIZES = ("cache_ram", "max_body")
_LISTEN, _CAPACITY, _MODEL, _LIFE = "Listening", "Capacity", "Models", "Life cycle"

app = typer.Typer(
    help="An OpenAI endpoint for a team's own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _flag(name: str, panel: str) -> Any:
    """An option whose default is "not given", so that environment and file can speak; help from the settings."""
    field = Settings.model_fields[name]
    default = field.default
    if default is not None and name in _SIZES:
        default = f"{default // 2**20}MiB"
    # Typer would show a default that is not the parameter's own in brackets of two kinds.
    shown = f" [dim]\\[default: {default}][/dim]" if default not in (None, (), False) else ""
    # Help is markup: brackets of ours are to be seen.
    text = (field.description or "").replace("[", "\\[")
    return typer.Option(None, help=f"{text}{shown}", rich_help_panel=panel, show_default=False)


@app.command()
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="GGUF files, as PATH or NAME=PATH. None: the demo model.", show_default=False),
    ] = None,
    host: str | None = _flag("host", _LISTEN),
    port: int | None = _flag("port", _LISTEN),
    api_key: list[str] | None = _flag("api_key", _LISTEN),  # noqa: B008 - typer reads the default, nothing keeps it
    data: str | None = _flag("data", _LISTEN),
    insecure_no_key: bool | None = _flag("insecure_no_key", _LISTEN),
    cors_origin: list[str] | None = _flag("cors_origin", _LISTEN),  # noqa: B008 - as above
    max_body: str | None = _flag("max_body", _LISTEN),
    num_parallel: int | None = _flag("num_parallel", _CAPACITY),
    context: int | None = _flag("context", _CAPACITY),
    kv_cells: int | None = _flag("kv_cells", _CAPACITY),
    replicas: int | None = _flag("replicas", _CAPACITY),
    places: list[str] | None = _flag("places", _CAPACITY),  # noqa: B008 - as above
    kv_layout: str | None = _flag("kv_layout", _CAPACITY),
    fixed_parallel: bool | None = _flag("fixed_parallel", _CAPACITY),
    reserve: str | None = _flag("reserve", _CAPACITY),
    itl_target: float | None = _flag("itl_target", _CAPACITY),
    cache_ram: str | None = _flag("cache_ram", _CAPACITY),
    speculation: bool | None = _flag("speculation", _CAPACITY),
    isolate_keys: bool | None = _flag("isolate_keys", _CAPACITY),
    prefix_cache: str | None = _flag("prefix_cache", _CAPACITY),
    max_queue: int | None = _flag("max_queue", _CAPACITY),
    max_wait: float | None = _flag("max_wait", _CAPACITY),
    user_header: str | None = _flag("user_header", _CAPACITY),
    memory_budget: str | None = _flag("memory_budget", _CAPACITY),
    max_loaded_models: int | None = _flag("max_loaded_models", _CAPACITY),
    keep_alive: str | None = _flag("keep_alive", _CAPACITY),
    model_folder: str | None = _flag("model_folder", _MODEL),
    kv_type: str | None = _flag("kv_type", _MODEL),
    flash_attn: str | None = _flag("flash_attn", _MODEL),
    gpu_layers: int | None = _flag("gpu_layers", _MODEL),
    reproducible: bool | None = _flag("reproducible", _MODEL),
    threads: int | None = _flag("threads", _MODEL),
    n_batch: int | None = _flag("n_batch", _MODEL),
    preload: bool | None = _flag("preload", _LIFE),
    drain_timeout: float | None = _flag("drain_timeout", _LIFE),
    load_timeout: float | None = _flag("load_timeout", _LIFE),
    stall_timeout: float | None = _flag("stall_timeout", _LIFE),
    log_level: str | None = _flag("log_level", _LIFE),
    config: Annotated[
        str | None, typer.Option(help="TOML file with these settings.", rich_help_panel=_LIFE, show_default=False)
    ] = None,
) -> None:
    """Serve models on an OpenAI-compatible endpoint.

    Every option is also SLOTWISE_NAME in the environment and a key of the TOML file; the command line wins.
    """
    flags = {name: value for name, value in locals().items() if name != "config" and value not in (None, [])}
    try:
        settings = load_settings(flags, config_file=config)
        raise typer.Exit(_run_server(settings))
    except ConfigError as error:
        raise refused(str(error)) from None


def _run_server(settings: Settings) -> int:
    import anyio

    from slotwise.console import set_up_logging
    from slotwise.memory.gguf import GGUFError
    from slotwise.service import serve as serve_async

    set_up_logging(settings)
    for sentence in settings.taken_over:
        logger.info("%s", sentence)
    try:
        return anyio.run(serve_async, settings)
    except GGUFError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(
            f"{error.filename} can not be used: {error.strerror}" if error.filename else str(error)
        ) from error


app.add_typer(bench, name="bench")
app.add_typer(keys, name="keys")
app.command()(usage)
app.command()(fit)
app.command()(ps)
app.command()(simulate)
app.command()(tune)
app.command()(doctor)


@app.command()
def version() -> None:
    """Show the version."""
    out.print(f"slotwise {__version__}", highlight=False)


def main() -> None:
    app()
