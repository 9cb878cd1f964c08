"""What the next step of a worker contains, and what is learned from it. Pure: seconds come in.

Answers have their rows in every step. What else goes in: whose prompts may use the time at all (`promptshares`), how
much time there is (`cost`, `itl_target`), in which order prompts take it (`batch`), and drafts while no prompt wants it
(`speculation`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Many
from typing import NamedTuple

from slotwise.workers.batch import Budget, StepPlan, is_decoding, plan_step
from slotwise.workers.cost import PromptChunk, StepCost
from slotwise.workers.promptshares import Flow, PromptShares
from slotwise.workers.protocol import Asker
from slotwise.workers.sequences import Sequence
from slotwise.workers.speculation import Speculator

#: A prompt of so many tokens now and then waits for nobody, however slow the machine.
LONG_PROMPT = 3072
#: Of `itl_target`, what a step may take for prompts of those who have had much, beside others.
SHORT = 0.5


class PromptPart(NamedTuple):
    """What a step stores of a prompt."""

    asker: Asker
    tokens: int
    #: Their mean position in the prompt.
    depth: float


class Composer:
    """Plans the steps of one worker."""

    def __init__(self, n_batch: int, draft_rows: int, itl_target: float) -> None:
        """`draft_rows`: drafted tokens that a step can check; `itl_target`: seconds that a step with prompts may take
        beside answers, 0 = any."""
        self._n_batch = n_batch
        self._draft_rows = draft_rows
        self._itl_target = itl_target
        self._cost = StepCost()
        self._speculator = Speculator(self._cost, draft_rows)
        self._shares = PromptShares()
        #: Counts steps: whose prompt is served first.
        self._turn = 0
        #: The last step left parts of prompts out, so as to be short.
        self._was_brief = False

    def plan(self, active: Many[Sequence], waiting: Many[Sequence] = ()) -> StepPlan:
        """The next step of `active` sequences, in order of arrival. `waiting`: those that wait for one of them."""
        self._turn += 1
        self._shares.present(sequence.asker for sequence in active)
        decoding = [is_decoding(sequence) for sequence in active]
        held, target = self._divide(active, decoding, waiting)
        plan = plan_step(
            active,
            self._n_batch,
            self._budget(sum(decoding), target),
            self._drafts(active) if all(decoding) else {},
            turn=self._turn,
            may_be_brief=not self._was_brief,
            held=held,
        )
        self._was_brief = plan.brief
        return plan

    def plan_of_answers(self, active: Many[Sequence]) -> StepPlan:
        """The next step where all of `active` have begun to answer, and nothing is drafted: there is nothing to decide,
        and it is the same as by `plan`. Without its shares."""
        self._turn += 1
        self._was_brief = False
        self._shares.present(sequence.asker for sequence in active)
        return StepPlan(decode_rows=len(active))

    def predicted(self, plan: StepPlan, prompts: Many[PromptPart]) -> float:
        """Seconds that the step is taken to need; 0.0 where nothing is known."""
        return self._cost.planned_seconds(plan.decode_rows, _chunks(prompts), drafted=plan.drafted_rows)

    def computed(
        self, plan: StepPlan, prompts: Many[PromptPart], seconds: float, *, copied: bool, steps: int = 1
    ) -> None:
        """The step took so long. `copied`: it moved cells as well, so it says nothing of what tokens cost. `steps`: so
        many alike were made, one after the other, and each took so long."""
        self._turn += steps - 1
        tokens: Counter[Flow] = Counter()
        for part in prompts:
            tokens[part.asker.flow] += part.tokens
        decoding = self._cost.decode_seconds(plan.decode_rows)
        of_prompts = max(seconds - decoding, 0.0) if prompts else 0.0
        self._shares.passed(seconds * steps, of_prompts * steps, tokens)
        if not copied:
            self._cost.observe(plan.decode_rows, _chunks(prompts), seconds, drafted=plan.drafted_rows)

    def learn(self, sequence: Sequence, sampled: Many[int]) -> None:
        """These tokens came out of the step for it."""
        self._speculator.learn(sequence, sampled)

    def _divide(
        self, active: Many[Sequence], decoding: Many[bool], waiting: Many[Sequence]
    ) -> tuple[frozenset[int], float]:
        """Whose prompts wait for others' sake, by index; and how long the step may take.

        Not held is one that others wait for who need not wait themselves. Prompts of those who have had much get
        shorter steps beside others, because whoever comes meanwhile has to wait for the step's end.
        """
        if all(decoding):
            return frozenset(), self._itl_target
        asked = [(sequence.asker.flow, answers) for sequence, answers in zip(active, decoding, strict=True)]
        prompting = {flow for flow, answers in asked if not answers}
        answered = {flow for flow, answers in asked if answers}
        if len(prompting | answered) < 2:
            return frozenset(), self._itl_target
        self._shares.allow(self._cost.prompt_seconds(LONG_PROMPT))
        held = self._shares.held(answered, prompting)
        target = self._itl_target * (SHORT if self._shares.poor(prompting - held) else 1.0)
        if not held:
            return frozenset(), target
        led = {id(sequence.waits.leader) for sequence in waiting if sequence.waits and sequence.asker.flow not in held}
        indices = (index for index, (flow, answers) in enumerate(asked) if flow in held and not answers)
        return frozenset(index for index in indices if id(active[index]) not in led), target

    def _budget(self, decode_rows: int, target: float) -> Budget | None:
        """For prompts in the next step; None where nobody waits for the next word of an answer."""
        return self._cost.prompt_budget(target, decode_rows) if target and decode_rows else None

    def _drafts(self, active: Many[Sequence]) -> dict[int, list[int]]:
        """What to check beyond each sequence's own token, by index: while no prompt wants the time."""
        return dict(enumerate(self._speculator.propose(active, self._itl_target))) if self._draft_rows else {}


def _chunks(prompts: Many[PromptPart]) -> list[PromptChunk]:
    return [(part.tokens, part.depth) for part in prompts]
