"""Where slotwise keeps what is to outlive it."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """`$XDG_DATA_HOME/slotwise`, by default `~/.local/share/slotwise`."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "share") / "slotwise"


def write_whole(path: Path, content: bytes) -> None:
    """A file has all of it, or what it had before: what is there may be all that is left of an hour. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
