"""Which tokens the cells of a shared pool hold: a radix tree over live and retained sequences. Pure.

A node is a run of cells. A sequence is the path from its root to its tip; sequences that share cells share the nodes,
so the sum of all nodes is the number of cells in use. Only tokens that are stored in cells are in here, and the tree is
what the cells *are*, not what they could be: a text that was computed twice is in it twice.

Sequences of different scopes have different roots and never share (a hit is visible as a shorter wait, so it tells what
others have asked).

References: radix tree of SGLang (arXiv 2312.07104); cells of several owners: llama.cpp, llama-kv-cache.cpp, seq_cp.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class Match:
    """The first `length` tokens are in the cells of `seq_id` (and perhaps of others). Length 0: of nobody."""

    length: int
    seq_id: int = -1


class _Node:
    """A run of cells. Invariants: not empty unless it is a root; some sequence passes through it."""

    __slots__ = ("children", "parent", "paths", "tips", "tokens")

    def __init__(self, parent: _Node | None, tokens: list[int], paths: int) -> None:
        self.parent = parent
        self.tokens = tokens
        #: By first token. Several where the same text was computed more than once.
        self.children: dict[int, list[_Node]] = {}
        #: Sequences that end with this node.
        self.tips: set[int] = set()
        #: How many sequences own these cells.
        self.paths = paths

    def offspring(self) -> Iterator[_Node]:
        for nodes in self.children.values():
            yield from nodes

    def attach(self, child: _Node) -> None:
        self.children.setdefault(child.tokens[0], []).append(child)
        child.parent = self

    def detach(self, child: _Node) -> None:
        siblings = self.children[child.tokens[0]]
        siblings.remove(child)
        if not siblings:
            del self.children[child.tokens[0]]


class PrefixTree:
    """Sequences by id, and what they share."""

    def __init__(self) -> None:
        self._roots: dict[str, _Node] = {}
        self._tips: dict[int, _Node] = {}
        self._lengths: dict[int, int] = {}
        #: Cells in use, each counted once.
        self.cells = 0

    def length(self, seq_id: int) -> int:
        """Stored tokens of a sequence."""
        return self._lengths[seq_id]

    def tokens(self, seq_id: int) -> list[int]:
        """What a sequence has stored."""
        parts = [node.tokens for node in _upwards(self._tips[seq_id])]
        return [token for part in reversed(parts) for token in part]

    def scope(self, seq_id: int) -> str:
        root = _root_of(self._tips[seq_id])
        return next(scope for scope, node in self._roots.items() if node is root)

    def match(self, tokens: Sequence[int], scope: str = "", *, ends_of: Container[int] | None = None) -> Match:
        """The longest beginning of `tokens` that some sequence of `scope` has stored.

        With `ends_of`, only of these sequences, and only if all of their tokens are such a beginning.
        """
        root = self._roots.get(scope)
        if root is None:
            return Match(0)
        if ends_of is not None:
            return _deepest_end(root, tokens, ends_of)
        length, node = _descend(root, tokens)
        return Match(length, _some_tip(node)) if length else Match(0)

    def add(self, seq_id: int, scope: str = "", source: int | None = None, length: int = 0) -> None:
        """A new sequence that shares the first `length` cells of `source`; empty without one.

        Raises:
            ValueError: the id is taken, or `source` has fewer tokens, or is of another scope.
        """
        if seq_id in self._tips:
            raise ValueError(f"sequence {seq_id} is in the tree already")
        if source is None:
            node = self._roots.setdefault(scope, _Node(None, [], 0))
        else:
            if length > self._lengths[source]:
                raise ValueError(f"sequence {source} has {self._lengths[source]} tokens, {length} asked for")
            if _root_of(self._tips[source]) is not self._roots.get(scope):
                raise ValueError(f"sequence {source} is of another scope than '{scope}'")
            node = self._node_at(source, length)
        node.tips.add(seq_id)
        self._tips[seq_id], self._lengths[seq_id] = node, length
        for passed in _upwards(node):
            passed.paths += 1

    def extend(self, seq_id: int, tokens: Sequence[int]) -> None:
        """These tokens of the sequence are now stored, in cells of its own."""
        if not tokens:
            return
        tip = self._tips[seq_id]
        if tip.parent is None or tip.paths > 1:
            child = _Node(tip, list(tokens), 1)
            tip.attach(child)
            tip.tips.discard(seq_id)
            child.tips.add(seq_id)
            self._tips[seq_id] = child
        else:
            tip.tokens.extend(tokens)
        self._lengths[seq_id] += len(tokens)
        self.cells += len(tokens)

    def truncate(self, seq_id: int, length: int) -> int:
        """The sequence gives back everything from `length` on. Returns how many cells that freed."""
        if length >= self._lengths[seq_id]:
            return 0
        old_tip, target = self._tips[seq_id], self._node_at(seq_id, length)
        old_tip.tips.discard(seq_id)
        target.tips.add(seq_id)
        self._tips[seq_id], self._lengths[seq_id] = target, length
        below = list(takewhile(lambda node: node is not target, _upwards(old_tip)))
        return self._leave(below, target)

    def drop(self, seq_id: int) -> int:
        """The sequence is gone. Returns how many cells that freed: those that nobody else owned."""
        tip = self._tips.pop(seq_id)
        del self._lengths[seq_id]
        tip.tips.discard(seq_id)
        root = _root_of(tip)
        freed = self._leave(list(_upwards(tip)), root)
        if root.paths == 0:
            self._roots = {scope: node for scope, node in self._roots.items() if node is not root}
        return freed

    def cells_of(self, seq_ids: Iterable[int]) -> int:
        """Cells of these sequences, shared ones counted once."""
        seen: set[int] = set()
        total = 0
        for seq_id in seq_ids:
            for node in _upwards(self._tips[seq_id]):
                if id(node) in seen:
                    break
                seen.add(id(node))
                total += len(node.tokens)
        return total

    def private(self, seq_id: int) -> int:
        """Cells that `drop` would free."""
        total = 0
        for node in _upwards(self._tips[seq_id]):
            if node.paths > 1:
                break
            total += len(node.tokens)
        return total

    # ---- nodes

    def _node_at(self, seq_id: int, length: int) -> _Node:
        """The node that ends after `length` tokens of the sequence; splits one where there is none."""
        node, end = self._tips[seq_id], self._lengths[seq_id]
        while node.parent is not None and end - len(node.tokens) >= length:
            end -= len(node.tokens)
            node = node.parent
        if end == length:
            return node
        return _split(node, length - (end - len(node.tokens)))

    def _leave(self, nodes: list[_Node], end: _Node) -> int:
        """One sequence fewer passes through `nodes` (from the bottom up)."""
        freed, lowest = 0, end
        for node in nodes:
            node.paths -= 1
        for node in nodes:
            if node.paths or node.parent is None:
                lowest = node
                break
            freed += len(node.tokens)
            node.parent.detach(node)
        self.cells -= freed
        self._merge(lowest)
        return freed

    def _merge(self, node: _Node) -> None:
        """A node where nobody ends and only one goes on is one with it: else paths grow with every passer-by."""
        if node.parent is None or node.tips:
            return
        children = list(node.offspring())
        if len(children) != 1:
            return
        child = children[0]
        node.tokens.extend(child.tokens)
        node.tips, node.children = child.tips, child.children
        for grandchild in node.offspring():
            grandchild.parent = node
        for seq_id in node.tips:
            self._tips[seq_id] = node

    def check_invariants(self) -> None:
        assert self._tips.keys() == self._lengths.keys()
        cells, seen = 0, set[int]()
        for root in self._roots.values():
            assert root.parent is None
            assert not root.tokens
            stack = [root]
            while stack:
                node = stack.pop()
                children = list(node.offspring())
                cells += len(node.tokens)
                seen |= node.tips
                assert node.paths == len(node.tips) + sum(child.paths for child in children) > 0
                assert node is root or (node.tokens and (node.tips or len(children) > 1))
                assert all(child.parent is node for child in children)
                assert all(child.tokens[0] == token for token, nodes in node.children.items() for child in nodes)
                stack += children
        assert cells == self.cells
        assert seen == self._tips.keys()
        for seq_id, tip in self._tips.items():
            assert seq_id in tip.tips
            assert self._lengths[seq_id] == sum(len(node.tokens) for node in _upwards(tip))


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning. Compares slices, which runs in C.

    The slices double, so that what differs early costs little, however long it is.
    """
    most = min(len(left), len(right))
    if not most or left[0] != right[0]:
        return 0
    low, block = 0, 8  # left[:low] is common
    while low < most and left[low : low + block] == right[low : low + block]:
        low += block
        block *= 2
    if low >= most:
        return most
    high = min(low + block, most)  # left[:high] is not, unless the slices had different lengths
    if left[low:high] == right[low:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _walk(root: _Node, tokens: Sequence[int]) -> Iterator[tuple[int, _Node, bool]]:
    """Nodes below `root` whose tokens go on as `tokens` do: matched length, node, whether all of the node matches."""
    stack = [(0, root)]
    while stack:
        length, node = stack.pop()
        for child in node.children.get(tokens[length], ()) if length < len(tokens) else ():
            matched = length + common_length(child.tokens, tokens[length : length + len(child.tokens)])
            complete = matched - length == len(child.tokens)
            yield matched, child, complete
            if complete:
                stack.append((matched, child))


def _descend(root: _Node, tokens: Sequence[int]) -> tuple[int, _Node]:
    """The deepest match, and the node that it ends in (perhaps in its middle)."""
    return max(
        ((length, node) for length, node, _ in _walk(root, tokens)), key=lambda found: found[0], default=(0, root)
    )


def _deepest_end(root: _Node, tokens: Sequence[int], ends_of: Container[int]) -> Match:
    best = Match(0)
    for length, node, complete in _walk(root, tokens):
        ends = [seq_id for seq_id in node.tips if seq_id in ends_of]
        if complete and ends and length > best.length:
            best = Match(length, min(ends))
    return best


def _some_tip(node: _Node) -> int:
    while not node.tips:
        node = next(node.offspring())
    return min(node.tips)


def _split(node: _Node, at: int) -> _Node:
    """Cut a node in two; returns the upper part, which ends after `at` of its tokens."""
    parent = node.parent
    assert parent is not None
    assert 0 < at < len(node.tokens)
    parent.detach(node)
    upper = _Node(parent, node.tokens[:at], node.paths)
    node.tokens = node.tokens[at:]
    parent.attach(upper)
    upper.attach(node)
    return upper


def _upwards(node: _Node) -> Iterator[_Node]:
    each: _Node | None = node
    while each is not None:
        yield each
        each = each.parent


def _root_of(node: _Node) -> _Node:
    *_, root = _upwards(node)
    return root
