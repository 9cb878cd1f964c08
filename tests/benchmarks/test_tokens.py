"""Tokens counted with a local file, where a server does not tell."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from slotwise.benchmarks.lengths import fixed
from slotwise.benchmarks.measure import Options, prepare, run_leg
from slotwise.benchmarks.metrics import PRESETS
from slotwise.benchmarks.plan import Crowd, LegPlan
from slotwise.benchmarks.runner import Run
from slotwise.benchmarks.talks import Talk
from slotwise.benchmarks.tokens import CountError, count, ruler_of
from slotwise.loads import demo_model_path
from tests.benchmarks.served import serving

#: Four words that the demo model has as one token each, in one event.
SAID = "time year people way"


def test_a_file_that_is_no_model() -> None:
    with pytest.raises(CountError, match="can not be used to count"):
        count(__file__, ["x"])


@pytest.mark.model
def test_the_demo_model_counts() -> None:
    assert count(demo_model_path(), [SAID, "", "time"]) == [4, 0, 1]
    ruler = ruler_of(demo_model_path())
    assert ruler.per_word == pytest.approx(1, abs=0.02)
    assert 20 < ruler.fixed < 50, "the template has tokens of its own"


def _silent() -> Starlette:
    """A server that tells no usage."""

    async def models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": "m"}]})

    async def chat(request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield f'data: {{"choices":[{{"delta":{{"content":"{SAID}"}}}}]}}\n\n'
            yield 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/models", models), Route("/v1/chat/completions", chat, methods=["POST"])])


def _nobody_looks(run: Run, title: str, seconds: float) -> None:
    return None


@pytest.mark.model
async def test_answers_without_usage_are_counted_from_their_text() -> None:
    options = Options(PRESETS["chat"], tokenizer=demo_model_path())
    talk = Talk(prompt=fixed(64), output=fixed(4))
    plan = LegPlan("one", (Crowd("people", talk, users=1, conversations=3),), seconds=30, warmup=0, grace=5)
    async with serving(_silent()) as root:
        subject = await prepare("silent", f"{root}/v1", options)
        counted = await run_leg(subject, plan, options, "counted", 0.0, _nobody_looks)
        guessed = await run_leg(subject, plan, replace(options, tokenizer=None), "guessed", 0.0, _nobody_looks)

    assert [(attempt.output_tokens, attempt.estimated) for attempt in counted.attempts] == [(4, True)] * 3
    assert [(attempt.output_tokens, attempt.estimated) for attempt in guessed.attempts] == [(1, True)] * 3
