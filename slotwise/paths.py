"""Where slotwise keeps what is to outlive it."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """`$XDG_DATA_HOME/slotwise`, by default `~/.local/share/slotwise`."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "share") / "slotwise"
