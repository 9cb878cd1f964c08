"""What a token costs a worker, in device seconds, from its own step reports. Pure.

    seconds of a step = output tokens * output_s(decode rows) + prompt tokens * prompt_s

A device second is a second of the worker's time with all that runs on it together: the costs of all requests add up
to the time they take. (The worker's own model, `workers/cost.py`, asks how long one step takes; this one, what a
request costs over all of its steps.)
"""

from __future__ import annotations

from bisect import bisect_left

#: Of a new step, in what is known of its number of decode rows.
_WEIGHT = 0.05
#: How much of the prompt steps seen before counts when a new one is seen.
_KEEP = 0.98
#: Before anything was measured: a small model on a slow machine.
DEFAULT_PROMPT_S, DEFAULT_OUTPUT_S = 2e-3, 20e-3
#: Of a step's time, what prompts in it are taken to have cost at least.
_LEAST_PART = 0.02


class ServiceRates:
    """The rates of one model's workers. They outlive a worker: its successor is as fast."""

    def __init__(self) -> None:
        #: Seconds per output token, by decode rows of the step; and the rows known, in order.
        self._output: dict[int, float] = {}
        self._rows: list[int] = []
        self._prompt_seconds = self._prompt_tokens = 0.0

    def observe(self, decode_rows: int, prompt_tokens: int, output_tokens: int, seconds: float) -> None:
        """A step of so many rows took so long and gave so many output tokens (more than rows if drafts were right)."""
        if seconds <= 0:
            return
        if prompt_tokens:
            decode = min(output_tokens * self.output_s(decode_rows), (1 - _LEAST_PART) * seconds) if decode_rows else 0
            self._prompt_seconds = _KEEP * self._prompt_seconds + (seconds - decode)
            self._prompt_tokens = _KEEP * self._prompt_tokens + prompt_tokens
        elif decode_rows and output_tokens:
            rate = seconds / output_tokens
            if decode_rows in self._output:
                self._output[decode_rows] += _WEIGHT * (rate - self._output[decode_rows])
            else:
                self._output[decode_rows] = rate
                self._rows.insert(bisect_left(self._rows, decode_rows), decode_rows)

    @property
    def prompt_s(self) -> float:
        """Device seconds per prompt token that is computed."""
        return self._prompt_seconds / self._prompt_tokens if self._prompt_tokens else DEFAULT_PROMPT_S

    def output_s(self, rows: int) -> float:
        """Device seconds per output token while `rows` sequences are decoded together.

        Between two known numbers by a line; beyond them as the nearest.
        """
        if not self._rows:
            return DEFAULT_OUTPUT_S
        at = bisect_left(self._rows, rows)
        if at == len(self._rows):
            return self._output[self._rows[-1]]
        high = self._rows[at]
        if at == 0 or high == rows:
            return self._output[high]
        low = self._rows[at - 1]
        part = (rows - low) / (high - low)
        return (1 - part) * self._output[low] + part * self._output[high]
