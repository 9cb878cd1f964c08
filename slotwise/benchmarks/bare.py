"""The step loop alone, in one process without HTTP, pipes or scheduler: what the server's hops are measured against.

    python -m slotwise.benchmarks.bare M.gguf --users 10

Prints one JSON object: output tokens per second, steps, seconds in steps.
"""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from slotwise.benchmarks.load import CONTEXT, OUTPUT_TOKENS, prompt_for
from slotwise.request import SamplingParams, TextPrompt
from slotwise.workers.llama import LlamaModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import LoadModel, StartSequence


def main(
    model: Annotated[str, typer.Argument(help="The GGUF file.")],
    users: Annotated[int, typer.Option(help="Closed loops, each with its own prompts.")] = 10,
    turns: Annotated[int, typer.Option(help="Requests of each user, one after the other.")] = 2,
    slots: Annotated[int, typer.Option(help="Slots of the context.")] = 10,
    threads: Annotated[int, typer.Option(help="Compute threads.")] = 2,
) -> None:
    """Run the closed loops and print what they took."""
    load = LoadModel("m", model, slots, CONTEXT, threads=threads)
    llama = LlamaModel(load, lambda stage, fraction: None)
    llama.warm_up()
    preparer = PromptPreparer(llama.vocabulary, llama.info.vocab_size)
    loop = StepLoop(llama)

    def start(user: int, turn: int) -> None:
        name = f"{user}/{turn}"
        loop.prepared(name, preparer.prepare(TextPrompt(prompt_for(user, turn))))
        loop.start(StartSequence(name, OUTPUT_TOKENS, SamplingParams(temperature=0), ignore_eos=True))

    started = time.perf_counter()
    for user in range(users):
        start(user, 0)
    tokens, steps, step_seconds = 0, 0, 0.0
    while not loop.idle:
        report = loop.step()
        steps += 1
        step_seconds += report.seconds
        for delta in report.deltas:
            tokens += delta.tokens
            if delta.finish_reason:
                user, turn = map(int, delta.request_id.split("/"))
                if turn + 1 < turns:
                    start(user, turn + 1)
    seconds = time.perf_counter() - started
    typer.echo(json.dumps({"tok_s": tokens / seconds, "steps": steps, "step_seconds": step_seconds}))


if __name__ == "__main__":
    typer.run(main)
