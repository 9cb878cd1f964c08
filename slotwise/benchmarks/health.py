"""Whether the client was fast enough to be believed. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Beyond these the client was part of what it measured (research notes, benchmarking.md 3, trap 6).
MAX_LAG_S, MAX_DELAY_S, MAX_CPU_SHARE = 0.010, 0.005, 0.7
DELAY_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """How the client fared. Times in seconds."""

    #: How late the event loop ran what was due, p99.
    lag_p99: float
    #: How late requests were sent, p95.
    delay_p95: float
    #: Of one core.
    cpu_share: float
    #: There were more requests under way than it can hold connections.
    overflowed: bool = False

    def faults(self, ttft: float | None = None) -> list[str]:
        """Why the run must not be believed; empty if it may be.

        `ttft`: the median wait for a first token, in seconds. A burst is sent one after the other; what that takes does
        not count while it is little beside the wait (guidellm warns from 1% on).
        """
        delay_allowed = max(MAX_DELAY_S, DELAY_SHARE * ttft if ttft is not None and math.isfinite(ttft) else 0.0)
        found = []
        if self.lag_p99 > MAX_LAG_S:
            found.append(
                f"the client's loop ran {1000 * self.lag_p99:.0f} ms late (p99; {1000 * MAX_LAG_S:.0f} allowed)"
            )
        if self.delay_p95 > delay_allowed:
            found.append(
                f"requests were sent {1000 * self.delay_p95:.0f} ms late (p95; {1000 * delay_allowed:.0f} allowed)"
            )
        if self.cpu_share > MAX_CPU_SHARE:
            found.append(f"the client used {self.cpu_share:.0%} of a core ({MAX_CPU_SHARE:.0%} allowed)")
        if self.overflowed:
            found.append("more requests were under way than this client can hold connections")
        return found
