"""The context that a worker makes of its wishes: rows, cells, pools. Pure: who plans for a worker agrees with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slotwise.memory.footprint import CELL_PADDING, ContextShape, pad
from slotwise.workers.cells import Reuse
from slotwise.workers.protocol import LoadModel
from slotwise.workers.speculation import MOST_DRAFTED

#: Sequence rows beside those of the slots, for what ended sequences leave behind in one pool of cells.
RETAINED_ROWS = 32
_MOST_ROWS = 256  # LLAMA_MAX_SEQ
#: The flash kernel's rows of decode take so much for each cell and head that small heads take several times as long as
#: without it. With larger ones that is so in long contexts only, and in short ones it is the other way around.
_SMALL_HEAD = 64
#: Without flash attention a step has its scores in memory, 4 bytes for each head, token of the batch and cell of a
#: sequence, and 2 more while they are multiplied: where there would be more of these pairs, flash attention stays on
#: (for 32 heads that is 0.75 GiB).
_MOST_SCORES = 512 * 8192
#: Inputs of one batch of an embedding model.
_MOST_INPUTS = 64


@dataclass(frozen=True, slots=True)
class ContextLayout:
    """What is asked of llama.cpp, and what follows from it."""

    context: ContextShape
    #: Most tokens of a sequence.
    context_cap: int
    #: Rows of a batch that drafts may have.
    draft_rows: int
    reuse: Reuse

    @property
    def split(self) -> bool:
        return not self.context.unified


def context_layout(
    load: LoadModel, *, context_train: int, can_go_back: bool, head_size: int = 0, can_flash: bool = True
) -> ContextLayout:
    """`context_train`: tokens that the model was trained for. `can_go_back`: a sequence can be cut anywhere.
    `head_size`: elements of a head's key; 0 = not known. `can_flash`: llama.cpp has flash attention for the model."""
    if load.pooling:
        return _embedding_layout(load, context_train)
    reuse = Reuse.PARTIAL if can_go_back else Reuse.CONTINUE
    cap = _cap(load, context_train)
    cells = load.kv_cells or load.slots * cap
    split = _splits(load, enough_for_all=cells >= load.slots * cap, reuse=reuse)
    # Where sequences are not shared, a row is bytes: a state, or a window of cells.
    more_rows = RETAINED_ROWS if can_go_back and not split else 0
    rows = min(load.slots + more_rows, _MOST_ROWS)
    # A sequence that can not go back would keep what was drafted wrongly.
    draft_rows = MOST_DRAFTED if load.speculation and can_go_back else 0
    # The same whatever the layout: it may change while the worker runs (`ResizePool`).
    n_batch = max(load.n_batch, min(load.slots + RETAINED_ROWS, _MOST_ROWS))
    context = ContextShape(
        cells=cells,
        sequences=rows,
        unified=not split,
        n_batch=n_batch,
        # Not a row of logits per token of the batch: a third of the compute buffer. Fewer than sequences abort.
        # Of a slot one row is wanted, and of its drafts.
        outputs=min(max(rows, load.slots + draft_rows), n_batch),
        type_k=load.kv_type,
        type_v=load.kv_type,
    )
    context = replace(context, flash_attention=can_flash and _is_flash(load, context, head_size))
    of_a_sequence = context.all_cells // load.slots if split else context.all_cells
    return ContextLayout(context, min(cap, of_a_sequence), draft_rows, reuse)


def _is_flash(load: LoadModel, context: ContextShape, head_size: int) -> bool:
    """Whether attention is computed by llama.cpp's flash kernel.

    On a processor it computes each row of decode alone, cell by cell: with 2,000 cells a row of the demo model takes
    25 ms there and 9 without it; prompts take two thirds of the time with it (docs/performance.md). Without it each row
    of a pool looks at all of its cells, so that is for cells which are split; and quantised values need it.
    """
    if load.flash_attn != "auto":
        return load.flash_attn == "on"
    if load.n_gpu_layers or context.unified or load.kv_type != "f16" or not 0 < head_size <= _SMALL_HEAD:
        return True
    return context.n_batch * context.pool_cells > _MOST_SCORES


def _embedding_layout(load: LoadModel, context_train: int) -> ContextLayout:
    """Of a model that embeds: room for one batch, which is forgotten when it is computed. Pooling takes an input whole,
    so a batch is as long as the longest one at least."""
    cap = _cap(load, context_train)
    n_batch = max(load.n_batch, cap)
    # A row takes no bytes of its own; in company the bits may differ.
    rows = 1 if load.reproducible else _MOST_INPUTS
    context = ContextShape(
        cells=n_batch,
        sequences=rows,
        n_batch=n_batch,
        # Pooling wants the vectors of all tokens.
        outputs=n_batch,
        type_k=load.kv_type,
        type_v=load.kv_type,
        flash_attention=load.flash_attn != "off",
    )
    return ContextLayout(context, cap, 0, Reuse.CONTINUE)


def pool_sizes(load: LoadModel, *, context_train: int) -> tuple[int, ...]:
    """Cells that the pool of a worker may have, most first.

    At most all slots have their whole context; a half, a quarter, … of that, at least one has. One size alone where it
    was asked for, or where each slot is to have its own cells.
    """
    cap = _cap(load, context_train)
    if load.pooling:
        return (_embedding_layout(load, context_train).context.all_cells,)
    if load.kv_cells or load.reproducible or load.kv_layout == "split":
        return (load.kv_cells or load.slots * cap,)
    sizes = [load.slots * cap]
    # Of a short context the half may be padded to more than the whole.
    while cap < (half := pad(sizes[-1] // 2, CELL_PADDING)) < sizes[-1]:
        sizes.append(half)
    if sizes[-1] > cap:
        sizes.append(cap)
    return tuple(sizes)


def _cap(load: LoadModel, context_train: int) -> int:
    """Most tokens of a sequence, as asked for and as the model knows."""
    return min(load.context_cap or context_train, context_train)


def _splits(load: LoadModel, *, enough_for_all: bool, reuse: Reuse) -> bool:
    """Whether each slot gets a pool of its own. In one pool each row of a batch looks at everybody's cells, so `auto`
    shares only where that is what the cells are for: when there are fewer than all slots could need."""
    if load.reproducible:
        # A sequence's cells stay in order, and attention adds them up in that order.
        return True
    if load.kv_layout != "auto":
        return load.kv_layout == "split"
    return enough_for_all and reuse is Reuse.PARTIAL
