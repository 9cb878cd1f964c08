"""What a model keeps for each token and for each sequence, layer by layer. Pure.

Source: `llama_model::create_memory` (llama-model.cpp), `load_arch_hparams` of models/*.cpp and llama-hparams.cpp of the
build that constraints.txt pins. tests/memory/test_llama_footprint.py holds it against llama.cpp's own buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from slotwise.memory.architectures import (
    BY_HEADS,
    BY_INTERVAL,
    EXAONE4_WINDOWED_LAYERS,
    GEMMA3N_LAYERS_WITH_CELLS,
    HYBRID,
    KNOWN,
    LATENT,
    NEMOTRON,
    RECURRENT,
    WINDOWS,
    WITHOUT_GROUPS,
    WITHOUT_MEMORY,
    Window,
)
from slotwise.memory.gguf import MAX_LAYERS, GGUFError, GGUFHeader, Scalar


class Layer(NamedTuple):
    """Of one layer: elements of a K and of a V row for a token (0: none is kept), whether it looks at a window of the
    last tokens only, and the float32 elements of a sequence's recurrent state."""

    key: int
    value: int
    windowed: bool = False
    state: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides about a model's memory, beside its weights."""

    architecture: str
    #: The rules of this architecture are known here. Otherwise each layer is taken for plain attention.
    known: bool
    layers: tuple[Layer, ...]
    #: Tokens that windowed layers look at; 0: there are none.
    window: int
    #: Any beginning of a sequence can be gone back to: it has no recurrent state and no window.
    can_go_back: bool
    embedding: int
    feed_forward: int
    heads: int
    vocab: int
    context_train: int
    #: All layers that tensors are numbered by, with those for prediction ahead (`nextn`), which are not loaded.
    blocks: int
    trunk: int
    #: Of the experts of a layer, the part that computes a token; 1 where there are none.
    experts_used: float = 1.0
    #: Heads that look for each one of which cells are kept (grouped queries).
    heads_per_kept: float = 1.0
    #: Elements of a head's key, in layers without a window; 0: not known.
    head_size: int = 0


def model_shape(header: GGUFHeader) -> ModelShape:
    """Raises GGUFError where the file contradicts itself."""
    return _Reading(header).shape()


class _Reading:
    """A file's numbers, under the names that llama.cpp's hparams have."""

    def __init__(self, header: GGUFHeader) -> None:
        self._header = header
        self.arch = header.architecture
        loops = header.integer("num_loops", 1) if self.arch == "nanbeige" else 1
        self.blocks = header.layers * loops
        if self.blocks > MAX_LAYERS:
            raise GGUFError(f"the file says that its {header.layers} layers are gone through {loops} times")
        nextn = header.integer("nextn_predict_layers", 0)
        if nextn > self.blocks:
            raise GGUFError(f"the file says that {nextn} of its {self.blocks} layers predict ahead")
        self.trunk = self.blocks - nextn
        self.heads = self._per_layer("attention.head_count", [0] * self.blocks, loops)
        self.kv_heads = self._per_layer("attention.head_count_kv", self.heads, loops)
        self.feed_forward = self._per_layer("feed_forward_length", [0] * self.blocks, loops)
        self.embedding = header.integer("embedding_length", 0)
        first = self.heads[0] if self.heads else 0
        size = self.embedding // first if first else 0
        key = header.integer("attention.key_length", size) if first or self.arch == "plamo2" else 0
        value = header.integer("attention.value_length", size) if first or self.arch == "plamo2" else 0
        #: Key and value length of a head; with a window, and without.
        self.head_sizes = {
            False: (key, value),
            True: (
                header.integer("attention.key_length_swa", key),
                header.integer("attention.value_length_swa", value),
            ),
        }

    def shape(self) -> ModelShape:
        header = self._header
        window, windowed = self._windows()
        recurrent, attends = self._recurrent(), self._attends()
        state = self._state() if any(recurrent) else 0
        latent = self._is_latent()
        layers = []
        for index in range(self.blocks):
            key, value = self.head_sizes[windowed[index]] if attends[index] else (0, 0)
            heads = self.kv_heads[index]
            rows = Layer(key * heads, 0 if latent else value * heads)
            layers.append(Layer(rows.key, rows.value, windowed[index] and attends[index], recurrent[index] * state))
        return ModelShape(
            architecture=self.arch,
            known=self.arch in KNOWN,
            layers=tuple(layers),
            window=window,
            can_go_back=not window and self.arch not in RECURRENT | HYBRID,
            embedding=self.embedding,
            feed_forward=max(self.feed_forward, default=0),
            heads=max(self.heads, default=0),
            head_size=self.head_sizes[False][0],
            vocab=header.integer("vocab_size", 0) or header.lengths.get("tokenizer.ggml.tokens", 0),
            context_train=header.integer("context_length", 0),
            blocks=self.blocks,
            trunk=self.trunk,
            experts_used=self._experts_used(),
            heads_per_kept=max(self.heads, default=0) / max((*self.kv_heads, 1)),
        )

    def _experts_used(self) -> float:
        count, used = (self._header.integer(f"expert_{name}", 0) for name in ("count", "used_count"))
        return min(used / count, 1.0) if count and used else 1.0

    def _per_layer(self, key: str, default: list[int], loops: int) -> list[int]:
        found = self._header.value(key)
        if isinstance(found, list):
            return [_whole(item) for item in self._of_all_layers(key, found * loops)]
        return list(default) if found is None else [_whole(found)] * self.blocks

    def _of_all_layers(self, key: str, items: list[Scalar]) -> list[Scalar]:
        if len(items) != self.blocks:
            raise GGUFError(f"'{self.arch}.{key}' has {len(items)} items for {self.blocks} layers")
        return items

    def _is_latent(self) -> bool:
        """One compressed row for keys and values together."""
        names = ("attention.key_length_mla", "attention.value_length_mla")
        return self.arch in LATENT and all(self._header.integer(name, 0) for name in names)

    # ---- windows

    def _windows(self) -> tuple[int, list[bool]]:
        """The size of the window, and which layers have it."""
        none = [False] * self.blocks
        rule = WINDOWS.get(self.arch)
        if rule is None:
            return 0, none
        if self.arch == "exaone4" and self.trunk != EXAONE4_WINDOWED_LAYERS:
            # llama.cpp reads the size all the same, and says that there is a window.
            return self._header.integer("attention.sliding_window", 0), none
        size = self._header.integer("attention.sliding_window", rule.default)
        if size == 0:
            return 0, none
        return rule.always or size, self._windowed(rule)

    def _windowed(self, rule: Window) -> list[bool]:
        if self.arch == "lfm2":
            return [not state for state in self._recurrent()]
        said = self._header.value("attention.sliding_window_pattern")
        if isinstance(said, list):
            return [bool(item) for item in self._of_all_layers("attention.sliding_window_pattern", said)]
        every = said if isinstance(said, int) else rule.every
        of_trunk = [_in_pattern(index, every, rule.dense_first) for index in range(self.trunk)]
        return of_trunk + [False] * (self.blocks - self.trunk)

    # ---- which layers attend, which have a state

    def _attends(self) -> list[bool]:
        """The layers that have cells."""
        if self.arch in WITHOUT_MEMORY or self.arch in RECURRENT:
            return [False] * self.blocks
        if self.arch == "falcon-h1":
            return [True] * self.blocks
        recurrent = self._recurrent()
        if self.arch in NEMOTRON:
            return [not state and ff == 0 for state, ff in zip(recurrent, self.feed_forward, strict=True)]
        if self.arch in BY_HEADS:
            return [not state for state in recurrent]
        with_cells = self._with_cells()
        return [index < with_cells and not state for index, state in enumerate(recurrent)]

    def _with_cells(self) -> int:
        """So many of the first layers have cells of their own."""
        if self.arch == "gemma3n":
            return GEMMA3N_LAYERS_WITH_CELLS
        if self.arch == "gemma4":
            return min(self.blocks - self._header.integer("attention.shared_kv_layers", 0), self.trunk or self.blocks)
        return self.trunk or self.blocks

    def _recurrent(self) -> list[bool]:
        """The layers that have a state."""
        if self.arch in RECURRENT or self.arch == "falcon-h1":
            return [index < self.trunk for index in range(self.blocks)]
        in_trunk = [index < self.trunk for index in range(self.blocks)]
        if self.arch in BY_HEADS:
            return [trunk and heads == 0 for trunk, heads in zip(in_trunk, self.kv_heads, strict=True)]
        if self.arch in NEMOTRON:
            both = zip(in_trunk, self.kv_heads, self.feed_forward, strict=True)
            return [trunk and heads == 0 and ff == 0 for trunk, heads, ff in both]
        if self.arch in BY_INTERVAL:
            return self._by_interval(in_trunk)
        return [False] * self.blocks

    def _by_interval(self, in_trunk: list[bool]) -> list[bool]:
        said = self._header.value("attention.recurrent_layers")
        if isinstance(said, list):
            said = self._of_all_layers("attention.recurrent_layers", said)
            return [trunk and bool(item) for trunk, item in zip(in_trunk, said, strict=True)]
        every = self._header.integer("full_attention_interval", BY_INTERVAL[self.arch])
        if every < 1:
            raise GGUFError(f"'{self.arch}.full_attention_interval' is {every}")
        return [trunk and (index + 1) % every != 0 for index, trunk in enumerate(in_trunk)]

    def _state(self) -> int:
        """Elements of one layer's state of a sequence: what convolutions look back at, and the state proper."""
        number = self._header.integer
        heads = self.heads[0] if self.heads else 0
        if size := number("wkv.head_size", 0):
            return (number("token_shift_count", 2) + size) * self.embedding
        if cache := number("shortconv.l_cache", 0):
            return self.embedding * (cache - 1)
        kernel = number("ssm.conv_kernel", 0)
        if size := number("kda.head_dim", 0):
            return 3 * (kernel - 1 if kernel else 3) * heads * size + size * size * heads
        if self.arch == "minimax-01":
            return self.head_sizes[False][0] ** 2 * heads
        inner, states = number("ssm.inner_size", 0), number("ssm.state_size", 0)
        groups = 0 if self.arch in WITHOUT_GROUPS else number("ssm.group_count", 0)
        return max(kernel - 1, 0) * (inner + 2 * groups * states) + states * inner


def _whole(value: object) -> int:
    """A count in a file; what is none counts as nothing."""
    return value if isinstance(value, int) and value >= 0 else 0


def _in_pattern(index: int, every: int, dense_first: bool) -> bool:
    if every == 0:
        return True
    return index % every != 0 if dense_first else index % every < every - 1
