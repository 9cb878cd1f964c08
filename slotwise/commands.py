"""What commands have in common: where they print, how they refuse, and options that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

EXIT_REFUSED = 2
#: As a shell says it of SIGINT.
EXIT_INTERRUPTED = 130

out, err = Console(), Console(stderr=True)

Folder = Annotated[
    Path | None, typer.Option("--data", envvar="SLOTWISE_DATA", help="Folder of the server's data.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def refused(message: str) -> typer.Exit:
    """Says what is wrong on standard error; to be raised."""
    err.print(f"[red]slotwise:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(EXIT_REFUSED)
