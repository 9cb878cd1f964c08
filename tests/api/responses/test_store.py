"""What is kept stays within its bounds, and is its key's alone."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slotwise.api.responses.store import Kept, ResponseStore
from slotwise.request import ChatMessage

KEYS = st.sampled_from(["", "a", "b"])
IDS = st.integers(0, 12).map(lambda number: f"resp_{number}")


def _kept(response_id: str, text: str = "hi") -> Kept:
    item = {"id": f"msg_{response_id}", "type": "message", "content": text}
    return Kept.of({"id": response_id, "output": [item]}, [], (ChatMessage("user", text),))


def test_a_key_sees_its_own_alone() -> None:
    store = ResponseStore()
    store.put("a", _kept("r"))

    assert store.get("a", "r") is not None
    assert store.item("a", "msg_r") is not None
    for other in ("", "b"):
        assert store.get(other, "r") is None
        assert store.item(other, "msg_r") is None
        assert not store.drop(other, "r")
    assert store.drop("a", "r")
    assert (store.get("a", "r"), store.item("a", "msg_r"), len(store), store.bytes) == (None, None, 0, 0)


def test_the_longest_unused_goes_first() -> None:
    store = ResponseStore(max_responses=2)
    store.put("a", _kept("1"))
    store.put("a", _kept("2"))
    store.get("a", "1")
    store.put("a", _kept("3"))

    assert [name for name in "123" if store.get("a", name)] == ["1", "3"]


def test_who_keeps_much_pushes_out_its_own() -> None:
    store = ResponseStore(max_responses=100, max_bytes=20_000)
    store.put("small", _kept("mine"))
    for number in range(50):
        store.put("large", _kept(f"r{number}", "x" * 1000))

    assert store.get("small", "mine") is not None
    assert store.bytes <= 20_000


def test_what_is_larger_than_the_store_is_not_kept() -> None:
    store = ResponseStore(max_bytes=1000)
    store.put("a", _kept("1", "x" * 2000))

    assert (len(store), store.bytes) == (0, 0)


class Store(RuleBasedStateMachine):
    """Against plain dictionaries, which forget nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ResponseStore(max_responses=5, max_bytes=3000)
        self.put_: dict[tuple[str, str], Kept] = {}
        self.number = 0

    @rule(key=KEYS, size=st.integers(0, 1500))
    def put(self, key: str, size: int) -> None:
        self.number += 1
        kept = _kept(f"resp_{self.number % 13}_{self.number}", "x" * size)
        self.put_[key, kept.response_id] = kept
        self.store.put(key, kept)

    @rule(data=st.data(), key=KEYS)
    def drop(self, data: Any, key: str) -> None:
        if self.put_:
            _, response_id = data.draw(st.sampled_from(sorted(self.put_)))
            had = self.store.get(key, response_id) is not None
            assert self.store.drop(key, response_id) == had
            assert self.store.get(key, response_id) is None

    @invariant()
    def nothing_is_over_its_bounds_or_anothers(self) -> None:
        assert len(self.store) <= 5
        assert 0 <= self.store.bytes <= 3000
        for key in ("", "a", "b"):
            for owner, response_id in self.put_:
                kept = self.store.get(key, response_id)
                item = self.store.item(key, f"msg_{response_id}")
                assert kept is None or (owner == key and kept is self.put_[owner, response_id])
                assert (item is None) == (kept is None)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
