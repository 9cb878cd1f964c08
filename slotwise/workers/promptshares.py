"""How much of a worker's time each flow's prompts may take, beside others. Pure.

Answers get a row in every step, so what makes them slow is the prompts that come along. A flow earns its part of the
seconds that pass (its weight over that of all that have sequences here), and its prompts spend what they take. Whose
credit is used up is *held*: its prompts wait while others here can use the time. So beside a key that sends prompt
after prompt, the answers of four others keep four fifths of the machine; and a prompt now and then never waits, for it
is paid from what was earned before.

1. Credit is bounded: who was idle for long does not get more than CREDIT_S before the others notice, or what one long
   prompt takes (`allow`), where the machine is so slow that this is more: else it would be held though it comes alone.
2. Between prompts, whose flow has clearly less credit waits: a question of one who asks now and then does not share its
   step with one of somebody's many.
3. Work conserving: nobody is held while no other flow is being answered or has credit for a prompt of its own.
4. Nobody is held for long: while it waits, it earns.

References: deficit round robin (Shreedhar, Varghese 1995), here with the time that a step took instead of packet sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

from slotwise.workers.protocol import Asker

#: The most that is saved up: prompts of so many seconds go at full speed; on a slow machine more.
CREDIT_S = 4.0
#: Credits that differ by less are the same: prompts go by their length then.
EVEN_S = 1.0
#: Of its weight, what a flow counts for beside one of a higher class: it gets on, and little more.
LOWER_CLASS = 0.25
#: Flows that have gone are swept out when there are so many of them.
_SWEEP = 64


#: An API key, and an end user behind it.
Flow = tuple[str, str]
#: A flow, or a key alone.
Name = tuple[str, ...]


class PromptShares:
    """The credit of each key, and of each of its users, in seconds. A flow has what both have."""

    def __init__(self) -> None:
        self._most = CREDIT_S
        #: What each lacks of the most that it may have.
        self._debt: dict[Name, float] = {}
        #: Of each that has sequences here, as of the last `present`; those of the flows, and those of the keys, are 1.
        self._parts: dict[Name, float] = {}
        self._askers: list[Asker] = []
        #: Those that have gone: what they lacked, and as of which second of `_passed`.
        self._gone: dict[Name, tuple[float, float]] = {}
        #: Seconds of all steps.
        self._passed = 0.0

    def allow(self, seconds: float) -> None:
        """One long prompt takes so long on this machine."""
        self._most = max(CREDIT_S, seconds)

    def credit(self, flow: Flow) -> float:
        """A key does not get more by naming more users."""
        return self._most - max(self._debt.get(flow, 0.0), self._debt.get(flow[:1], 0.0))

    def present(self, askers: Iterable[Asker]) -> None:
        """The askers of all sequences that are here now; others have gone, and may come back."""
        askers = list(askers)
        if askers == self._askers:
            return
        self._askers, self._parts = askers, {}
        for flow, part in parts_of(askers).items():
            self._parts[flow] = part
            self._parts[flow[:1]] = self._parts.get(flow[:1], 0.0) + part
        for name in self._debt.keys() - self._parts.keys():
            self._gone[name] = self._debt.pop(name), self._passed
        for name in self._parts.keys() - self._debt.keys():
            lacked, since = self._gone.pop(name, (0.0, self._passed))
            self._debt[name] = max(0.0, lacked - (self._passed - since) * self._parts[name])
        if len(self._gone) > _SWEEP:
            self._gone = {name: was for name, was in self._gone.items() if sum(was) > self._passed}

    def held(self, answered: Set[Flow], prompting: Set[Flow]) -> frozenset[Flow]:
        """Whose prompts are to wait in the next step, for others who can use the time.

        `answered`: flows with a sequence whose answer has begun; `prompting`: with one whose prompt is to be computed.
        """
        credit = {flow: self.credit(flow) for flow in prompting}
        most = max(credit.values(), default=0.0)
        return frozenset(
            flow
            for flow, has in credit.items()
            if has < most - EVEN_S or (has <= 0 and (most > 0 or answered - {flow}))
        )

    def poor(self, flows: Set[Flow]) -> bool:
        """None of them has much credit."""
        return all(self.credit(flow) < CREDIT_S / 2 for flow in flows)

    def passed(self, seconds: float, prompt_seconds: float, tokens: Mapping[Flow, int]) -> None:
        """A step took `seconds`, of which prompts took `prompt_seconds`: so many tokens of each flow's."""
        self._passed += seconds
        total, spent = sum(tokens.values()), defaultdict[Name, float](float)
        for flow, count in tokens.items():
            spent[flow] += prompt_seconds * count / total
            spent[flow[:1]] += prompt_seconds * count / total
        for name, part in self._parts.items():
            debt = self._debt[name] - part * seconds + spent.get(name, 0.0)
            self._debt[name] = debt if debt > 0.0 else 0.0


def parts_of(askers: Iterable[Asker]) -> dict[Flow, float]:
    """The part of each flow; together 1. A key's weight counts once, however many sequences it has, and its users
    share it evenly; a flow counts as of its highest class."""
    levels: dict[Flow, int] = {}
    weights: dict[str, float] = {}
    users: dict[str, int] = {}
    for asker in askers:
        if asker.flow not in levels:
            users[asker.key] = users.get(asker.key, 0) + 1
        levels[asker.flow] = max(levels.get(asker.flow, asker.level), asker.level)
        weights[asker.key] = asker.weight
    highest = max(levels.values(), default=0)
    counted = {
        flow: weights[flow[0]] / users[flow[0]] * (1.0 if level == highest else LOWER_CLASS)
        for flow, level in levels.items()
    }
    total = sum(counted.values())
    return {flow: weight / total for flow, weight in counted.items()}
