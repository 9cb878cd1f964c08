"""The named loads. Their numbers are from the research notes (benchmarking.md 6), fitted to public traces. Pure."""

from __future__ import annotations

import difflib

from slotwise.benchmarks import findings
from slotwise.benchmarks.lengths import fixed, lognormal, normal, uniform
from slotwise.benchmarks.plan import Crowd, LegPlan, Pace, Scenario, with_users
from slotwise.benchmarks.talks import Documents, Talk, TracedRequest

#: Azure LLM 2023, conversations: prompts with their history, and answers.
_CHAT = Talk(prompt=lognormal(6.63, 0.99, 32, 4096), output=lognormal(5.02, 0.86, 16, 512))
_TURN = lognormal(4.3, 0.9, 8, 1024)
_SHORT = Talk(prompt=fixed(128), output=fixed(128))
_SEED_USERS = (1, 2, 4, 8, 10, 16, 32)


def _solo() -> Scenario:
    crowd = Crowd("solo", Talk(), users=1, conversations=30)
    return Scenario(
        "solo",
        "One person, 30 requests one after the other: 512 tokens in, 128 out. What a server costs on its own.",
        (LegPlan("alone", (crowd,), x=1, seconds=600, warmup=5),),
        findings=findings.of_solo,
    )


def _seed() -> Scenario:
    leg = LegPlan("", (Crowd("people", _SHORT, users=1),))
    return Scenario(
        "seed-41",
        "A closed loop of 1 to 32 people, 128 tokens in and 128 out: does the total hold when more people come?",
        tuple(with_users(leg, users) for users in _SEED_USERS),
        axis="users",
        findings=findings.of_seed,
    )


def _chat() -> Scenario:
    people = Crowd("people", _CHAT, users=10, think=5.0)
    return Scenario(
        "chat",
        "Questions and answers as long as people's (Azure 2023): 10 people who think for 5 s, then arrivals at half "
        "and at four fifths of what the server can do.",
        (
            LegPlan("people", (people,), x=0),
            *(
                LegPlan(f"{share:g} of capacity", (Crowd("arrivals", _CHAT, pace=Pace("poisson", share)),), x=share)
                for share in (0.5, 0.8)
            ),
        ),
    )


def _chat_turns() -> Scenario:
    talk = Talk(prompt=_TURN, output=_CHAT.output, turns=uniform(3, 6), system=200)
    return Scenario(
        "chat-turns",
        "10 people in conversations of 3 to 6 turns with one system prompt; each turn brings the whole history along.",
        (LegPlan("conversations", (Crowd("people", talk, users=10, think=5.0),), x=10),),
        findings=findings.of_chat_turns,
        no_reuse=False,
    )


def _shared_prefix() -> Scenario:
    own = Talk(prompt=fixed(760), output=fixed(64))
    shared = Talk(prompt=fixed(30), output=fixed(64), system=730)
    return Scenario(
        "shared-prefix",
        "10 people, 760 tokens in and 64 out: first all of it their own, then 730 tokens of it a system prompt of all.",
        (
            LegPlan("own prompts", (Crowd("people", own, users=10),), x=0),
            LegPlan("shared prefix", (Crowd("people", shared, users=10),), x=1),
        ),
        findings=findings.of_prefix,
        no_reuse=False,
    )


def _rag() -> Scenario:
    talk = Talk(
        prompt=normal(64, 16, 32, 96),
        output=normal(200, 50, 100, 300),
        system=1024,
        documents=Documents(20, 1024, uniform(1, 2)),
    )
    return Scenario(
        "rag",
        "Questions about one or two of 20 documents, some asked about often, under one system prompt; at seven tenths "
        "of capacity.",
        (LegPlan("questions", (Crowd("arrivals", talk, pace=Pace("poisson", 0.7)),)),),
        findings=findings.of_rag,
        no_reuse=False,
    )


def _agent() -> Scenario:
    talk = Talk(prompt=lognormal(5.37, 0.6, 32, 1024), output=fixed(96), turns=fixed(12), system=2048)
    return Scenario(
        "agent",
        "8 agents of 12 steps: one long prefix of tools, some 256 tokens more each step, all history each time.",
        (LegPlan("agents", (Crowd("agents", talk, users=8, think=1.5),), x=8),),
        slo="agent",
        findings=findings.of_agent,
        no_reuse=False,
    )


def _longdoc() -> Scenario:
    steady = Crowd("steady", Talk(prompt=fixed(64), output=fixed(256)), users=8)
    long = Crowd("long", Talk(prompt=fixed(6000), output=fixed(32)), pace=Pace("constant", 0.1, absolute=True))
    return Scenario(
        "longdoc",
        "8 people who read answers as they come; then the same while a prompt of 6000 tokens comes every 10 s.",
        (LegPlan("undisturbed", (steady,), x=0), LegPlan("with long prompts", (steady, long), x=1)),
        findings=findings.of_longdoc,
    )


def _edit() -> Scenario:
    editing = Talk(prompt=fixed(400), output=fixed(400), turns=fixed(3), edits=True)
    writing = Talk(prompt=fixed(128), output=fixed(400))
    return Scenario(
        "copy-edit",
        "A text of 400 tokens is returned, changed a little, three times in turn: by one person and by four. Then one "
        "person gets new text of the same length.",
        (
            LegPlan("one edits", (Crowd("people", editing, users=1),), x=1),
            LegPlan("four edit", (Crowd("people", editing, users=4),), x=4),
            LegPlan("one gets new text", (Crowd("people", writing, users=1),), x=0),
        ),
        findings=findings.of_edit,
        no_reuse=False,
    )


def _burst() -> Scenario:
    crowd = Crowd("burst", Talk(prompt=fixed(256), output=fixed(64)), pace=Pace("bursts", size=64, quiet=20.0))
    return Scenario(
        "burst",
        "64 requests at the same instant, every 20 s, three times.",
        (LegPlan("64 at once", (crowd,), x=64, seconds=60, warmup=0, grace=300),),
        findings=findings.of_burst,
    )


def _noisy() -> Scenario:
    light = Crowd(
        "light", Talk(prompt=fixed(128), output=fixed(64)), pace=Pace("poisson", 0.8, absolute=True), own_keys=True
    )
    heavy = Crowd("heavy", Talk(prompt=fixed(1024), output=fixed(256)), users=32)
    return Scenario(
        "noisy",
        "Four keys with a short question now and then; then the same beside one key that keeps 32 long requests going.",
        (LegPlan("light alone", (light,), x=0), LegPlan("with a heavy key", (light, heavy), x=1)),
        findings=findings.of_noisy,
    )


def _mixed() -> Scenario:
    often = Crowd("often", Talk(prompt=fixed(256), output=fixed(64)), pace=Pace("poisson", 0.42))
    rare = Crowd("rare", Talk(prompt=fixed(256), output=fixed(64), model=1), pace=Pace("poisson", 0.18))
    return Scenario(
        "mixed-models",
        "Two models (give --model twice), 70% and 30% of the requests, six tenths of the first one's capacity.",
        (LegPlan("two models", (often, rare)),),
        findings=findings.of_mixed,
    )


def _embed() -> Scenario:
    chat = Crowd("chat", _SHORT, users=4)
    vectors = Crowd("embed", Talk(prompt=fixed(128), inputs=16, model=1), users=4)
    return Scenario(
        "embed",
        "4 people who chat; then the same beside 4 who have 16 texts embedded at a time (second --model).",
        (LegPlan("chat alone", (chat,), x=0), LegPlan("with embeddings", (chat, vectors), x=1)),
        findings=findings.of_embed,
    )


def _overload() -> Scenario:
    def arriving(share: float, before: float | None = None) -> tuple[Crowd, ...]:
        return (Crowd("arrivals", _CHAT, pace=Pace("poisson", share, warmup_rate=before)),)

    return Scenario(
        "overload",
        "Chats come as fast as the server can serve them, then four times as fast, then half as fast after that.",
        (
            LegPlan("at capacity", arriving(1.0), x=1),
            LegPlan("4 x capacity", arriving(4.0), x=4),
            LegPlan("after overload", arriving(0.5, before=4.0), x=0.5, seconds=30, warmup=20),
        ),
        findings=findings.of_overload,
    )


def _pressure() -> Scenario:
    crowd = Crowd("people", Talk(prompt=fixed(3000), output=fixed(128)), users=8)
    return Scenario(
        "kv-pressure",
        "8 people with prompts of 3000 tokens at the same time: more than the KV cells of many a setting hold.",
        (LegPlan("more prompt than cells", (crowd,), x=8),),
        findings=findings.of_pressure,
    )


def _cancel() -> Scenario:
    talk = Talk(prompt=_CHAT.prompt, output=fixed(256), cancel_share=0.2, cancel_after=1.0)
    return Scenario(
        "cancel",
        "16 people, one in five of whom leaves after a second: does what they leave behind come back?",
        (LegPlan("one in five leaves", (Crowd("people", talk, users=16),), x=16),),
        findings=findings.of_cancel,
    )


def _soak() -> Scenario:
    return Scenario(
        "soak",
        "Half an hour of chats at seven tenths of capacity: what gets slower, what fails?",
        (LegPlan("soak", (Crowd("arrivals", _CHAT, pace=Pace("poisson", 0.7)),), seconds=1800, warmup=30),),
        findings=findings.of_soak,
    )


def _custom() -> Scenario:
    return Scenario(
        "custom",
        "A closed loop of your own: --users, --prompt, --output.",
        (with_users(LegPlan("", (Crowd("people", _SHORT, users=1),)), 8),),
        axis="users",
    )


def _rate() -> Scenario:
    crowd = Crowd("arrivals", _SHORT, pace=Pace("poisson", 1.0, absolute=True))
    return Scenario(
        "rate",
        "Arrivals of your own: --rate per second (--arrivals poisson, gamma, constant or ramp), --prompt, --output.",
        (LegPlan("arrivals", (crowd,)),),
    )


_ALL = (
    *(_solo(), _seed(), _chat(), _chat_turns(), _shared_prefix(), _rag(), _agent(), _longdoc(), _edit(), _burst()),
    *(_noisy(), _mixed(), _embed(), _overload(), _pressure(), _cancel(), _soak(), _custom(), _rate()),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}


def named(name: str) -> Scenario:
    """Raises ValueError for a name that is not known."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    close = difflib.get_close_matches(name, SCENARIOS, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    raise ValueError(f"there is no scenario '{name}'{hint} Known are {', '.join(SCENARIOS)}, and a trace by --trace")


def of_trace(requests: tuple[TracedRequest, ...], name: str) -> Scenario:
    """The replay of a trace. Raises ValueError for one without requests."""
    if not requests:
        raise ValueError("the trace has no requests")
    seconds = requests[-1].seconds + 1e-3
    crowd = Crowd("trace", Talk(), pace=Pace("trace", absolute=True), trace=requests)
    leg = LegPlan("replay", (crowd,), seconds=seconds, warmup=0, grace=300)
    return Scenario("trace", f"{len(requests)} requests of {name}, when they came.", (leg,), no_reuse=False)
