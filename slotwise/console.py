"""What a person sees of the server at the terminal: where it is, and how loads get on."""

from __future__ import annotations

import logging

import anyio
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from slotwise.scheduler.dispatcher import Dispatcher, ServedModel
from slotwise.settings import Settings

logger = logging.getLogger(__name__)
console = Console(stderr=True)

_LOOK_INTERVAL_S = 0.2
_LOG_STEP_PERCENT = 25


def set_up_logging(settings: Settings) -> None:
    """Colour and short times on a terminal, plain lines for a file or the journal."""
    level = settings.log_level.upper()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
        logging.basicConfig(level=level, format="%(message)s", datefmt="%X", handlers=[handler], force=True)
    else:
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def announce(settings: Settings, models: tuple[str, ...], *, asks_for_keys: bool) -> None:
    """The base URL and how to point a client at it."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}/v1"
    console.print(f"\n[bold]slotwise[/bold] serves {', '.join(models)} on [bold]{url}[/bold]")
    console.print(f"  export OPENAI_BASE_URL={url} OPENAI_API_KEY={'YOUR_KEY' if asks_for_keys else 'none'}")
    console.print("  slotwise ps shows slots, queue, cells and memory; Ctrl-C drains and stops\n")


async def watch_loads(dispatcher: Dispatcher) -> None:
    """Show loads as bars on a terminal, as log lines elsewhere. Runs until cancelled."""
    if not console.is_terminal:
        await _log_loads(dispatcher)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as progress:
        while True:
            for served in dispatcher.status():
                _show(served, bars, progress)
            await anyio.sleep(_LOOK_INTERVAL_S)


def _show(served: ServedModel, bars: dict[str, TaskID], progress: Progress) -> None:
    model, fraction = served.status.model, served.counters.load_progress
    if fraction is None or served.status.state != "starting":
        if model in bars:
            progress.remove_task(bars.pop(model))
        return
    if model not in bars:
        bars[model] = progress.add_task(f"loading {model}", total=1.0)
    progress.update(bars[model], completed=fraction, description=f"{model}: {served.counters.load_stage or 'starting'}")


async def _log_loads(dispatcher: Dispatcher) -> None:
    told: dict[str, int] = {}
    while True:
        for served in dispatcher.status():
            model, fraction = served.status.model, served.counters.load_progress
            if fraction is None:
                told.pop(model, None)
                continue
            percent = int(100 * fraction) // _LOG_STEP_PERCENT * _LOG_STEP_PERCENT
            if percent > told.get(model, 0):
                told[model] = percent
                logger.info("%s: %s %d%%", model, served.counters.load_stage, percent)
        await anyio.sleep(_LOOK_INTERVAL_S)
