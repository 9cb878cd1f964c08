"""A server that is killed with SIGKILL while it counts: the last second at most is lost, and nothing is there twice."""

import datetime
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from slotwise.usage.store import Grouping, UsageStore

#: Entry n has n prompt tokens, so their sum tells which entries are there, not only how many.
_CHILD = """
import os, sys, time
from pathlib import Path
import anyio
from slotwise.usage.entry import Outcome, UsageEntry
from slotwise.usage.ledger import UsageLedger
from slotwise.usage.store import UsageStore

async def main():
    folder, model = sys.argv[1:]
    ledger = UsageLedger(UsageStore(Path(folder)))
    number = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        while True:
            number += 1
            os.write(1, f"{time.monotonic()}\\n".encode())
            entry = UsageEntry(key=f"k{number % 3}", model=model, outcome=Outcome.COMPLETED, prompt_tokens=number)
            ledger.record(entry)
            await anyio.sleep(0.001)

anyio.run(main)
"""
#: Longer than what may be lost: a ledger that never writes is found out.
_RUN_S = 2.5
#: A second, and what a busy machine may take for a write.
_LOST_S = 1.5


def _record_until_killed(folder: Path, model: str) -> list[float]:
    """When each entry was recorded, by the child's clock."""
    command = [sys.executable, "-c", _CHILD, str(folder), model]
    times: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            times.append(float(line))
            if times[-1] - times[0] > _RUN_S:
                child.kill()  # what it has said until then is still to be read
    return times


def test_a_kill_costs_the_last_second_and_spoils_nothing(tmp_path: Path) -> None:
    recorded = {model: _record_until_killed(tmp_path, model) for model in ("first", "second")}

    assert (tmp_path / "usage.db-wal").exists(), "it was not closed"
    totals = UsageStore(tmp_path).totals(Grouping.MODEL, datetime.date(2000, 1, 1))
    for model, times in recorded.items():
        kept = totals[model].completed
        assert 0 < kept <= len(times)
        assert totals[model].prompt_tokens == kept * (kept + 1) // 2, "not the first ones, each once"
        assert times[-1] - times[kept - 1] < _LOST_S
    with closing(sqlite3.connect(tmp_path / "usage.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
