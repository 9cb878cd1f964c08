"""Marks are tokens here and text there; a grammar is the same for both."""

from slotwise.request import Constraint
from slotwise.workers.marks import completed


def test_a_grammar_without_marks_is_complete() -> None:
    assert completed(Constraint('start: "a"', "tools"), {"<a>": 1}) == 'start: "a"'


def test_marks_are_defined_by_the_vocabulary() -> None:
    constraint = Constraint("start: mark_0 mark_1", "tools", ("<a>", '"b"'))

    assert completed(constraint, {"<a>": 7}).splitlines() == [
        "start: mark_0 mark_1",
        "mark_0: <[7]>",
        "until_0: /(?s:.*)/ <[7]>",
        'mark_1: "\\"b\\""',
        'until_1[lazy]: /(?s:.*)/ "\\"b\\""',
    ]


def test_an_opened_thought_is_ended_first() -> None:
    constraint = Constraint("start: thoughts", "tools", ("<a>",), True)

    assert completed(constraint, {}).endswith("\nthoughts: thoughts_free\n")
    assert completed(constraint, {}, opened=True).endswith("\nthoughts: thoughts_opened\n")
