"""Model files with a few thousand random weights, one for each kind of memory that llama.cpp has.

What they say is nonsense, and depends on every token before it: a wrong cell or state gives another text.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

#: `<unk>`, `<s>`, `</s>`, then a token for each byte.
_SPECIAL = ("<unk>", "<s>", "</s>")
VOCABULARY = len(_SPECIAL) + 256
CONTEXT = 1024
#: Of the model with a sliding window: much shorter than the prompts of the tests.
WINDOW = 24
_WIDTH, _LAYERS, _HEADS, _HEAD = 32, 2, 4, 8
_STATE, _RANK, _KERNEL = 8, 4, 4

#: Sharp attention looks at few tokens, so that it matters which ones; an average of all would hardly change.
_GAINS = {"attn_q": 3.0, "attn_k": 3.0, "attn_v": 3.0, "attn_output": 6.0, "ssm_out": 6.0, "ssm_d": 0.3}

Tensors = Iterator[tuple[str, tuple[int, ...]]]

KINDS = ("llama", "gemma2", "mamba")
#: `[CLS]` a text `[SEP]`; letters are the words, and their continuations.
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_model(
    folder: Path, kind: str, seed: int = 1, *, context_length: int = CONTEXT, marks: Sequence[str] = ()
) -> str:
    """Path of a GGUF file. `kind`: "llama" (plain attention), "gemma2" (sliding window) or "mamba" (recurrent).
    `context_length`: tokens that it claims to be trained for. `marks`: further control tokens."""
    path = folder / f"tiny-{kind}.gguf"
    writer = gguf.GGUFWriter(path, kind)
    _describe(writer, kind, context_length, VOCABULARY + len(marks))
    vocabulary = add_vocabulary(writer, marks)
    rng = np.random.default_rng(seed)
    for name, shape in _tensors(kind, vocabulary):
        writer.add_tensor(name, _weights(rng, name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def write_encoder(folder: Path, pooling: str = "mean", seed: int = 1, *, context_length: int = CONTEXT) -> str:
    """Path of a BERT that embeds, or ranks: "mean", "cls" or "rank"."""
    path = folder / f"tiny-bert-{pooling}.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(2 * _WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    tokens = [*_BERT_SPECIAL, *(f"\u2581{letter}" for letter in _LETTERS), *_LETTERS]
    special = [gguf.TokenType.CONTROL] * len(_BERT_SPECIAL)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([*special, *[gguf.TokenType.NORMAL] * (len(tokens) - len(special))])
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    rng = np.random.default_rng(seed)
    for name, shape in _encoder(len(tokens), context_length, ranks=pooling == "rank"):
        writer.add_tensor(name, _weights(rng, name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def _encoder(vocabulary: int, context_length: int, *, ranks: bool) -> Tensors:
    yield "token_embd.weight", (vocabulary, _WIDTH)
    yield "token_types.weight", (2, _WIDTH)
    yield "position_embd.weight", (context_length, _WIDTH)
    yield from _with_bias("token_embd_norm", (_WIDTH,))
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        for name in ("q", "k", "v", "output"):
            yield from _with_bias(f"{block}attn_{name}", (_WIDTH, _WIDTH))
        yield from _with_bias(f"{block}attn_output_norm", (_WIDTH,))
        yield from _with_bias(f"{block}ffn_up", (2 * _WIDTH, _WIDTH))
        yield from _with_bias(f"{block}ffn_down", (_WIDTH, 2 * _WIDTH))
        yield from _with_bias(f"{block}layer_output_norm", (_WIDTH,))
    if ranks:
        yield from _with_bias("cls", (_WIDTH, _WIDTH))
        yield from _with_bias("cls.output", (1, _WIDTH))


def _with_bias(name: str, shape: tuple[int, ...]) -> Tensors:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _describe(writer: gguf.GGUFWriter, kind: str, context_length: int, vocabulary: int) -> None:
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(vocabulary)
    if kind == "mamba":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(_KERNEL)
        writer.add_ssm_inner_size(2 * _WIDTH)
        writer.add_ssm_state_size(_STATE)
        writer.add_ssm_time_step_rank(_RANK)
        return
    writer.add_feed_forward_length(2 * _WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS // 2)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_rope_dimension_count(_HEAD)
    if kind == "gemma2":
        writer.add_sliding_window(WINDOW)


def add_vocabulary(writer: gguf.GGUFWriter, marks: Sequence[str] = ()) -> int:
    """A token for each byte, and a template for chats; returns how many tokens there are."""
    tokens = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *marks]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.CONTROL] * len(marks)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]")
    return len(tokens)


def _tensors(kind: str, vocabulary: int) -> Tensors:
    """Names and shapes, the slowest index first."""
    yield "token_embd.weight", (vocabulary, _WIDTH)
    yield "output_norm.weight", (_WIDTH,)
    if kind != "gemma2":
        yield "output.weight", (vocabulary, _WIDTH)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (_WIDTH,)
        yield from ((block + name, shape) for name, shape in (_mamba() if kind == "mamba" else _attention(kind)))


def _attention(kind: str) -> Tensors:
    for name, heads in (("q", _HEADS), ("k", _HEADS // 2), ("v", _HEADS // 2)):
        yield f"attn_{name}.weight", (heads * _HEAD, _WIDTH)
    yield "attn_output.weight", (_WIDTH, _HEADS * _HEAD)
    yield "ffn_norm.weight", (_WIDTH,)
    yield "ffn_gate.weight", (2 * _WIDTH, _WIDTH)
    yield "ffn_up.weight", (2 * _WIDTH, _WIDTH)
    yield "ffn_down.weight", (_WIDTH, 2 * _WIDTH)
    if kind == "gemma2":
        yield "post_attention_norm.weight", (_WIDTH,)
        yield "post_ffw_norm.weight", (_WIDTH,)


def _mamba() -> Tensors:
    inner = 2 * _WIDTH
    yield "ssm_in.weight", (2 * inner, _WIDTH)
    yield "ssm_conv1d.weight", (inner, _KERNEL)
    yield "ssm_conv1d.bias", (inner,)
    yield "ssm_x.weight", (_RANK + 2 * _STATE, inner)
    yield "ssm_dt.weight", (inner, _RANK)
    yield "ssm_dt.bias", (inner,)
    yield "ssm_a", (inner, _STATE)
    yield "ssm_d", (inner,)
    yield "ssm_out.weight", (_WIDTH, inner)


def _weights(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if name.endswith("norm.weight"):
        # What blocks add is to outweigh what a token brings along, or the last token alone would decide.
        return np.full(shape, 20.0 if "post_" in name else 1.0, np.float32)
    if name.endswith("ssm_a"):
        return -np.exp(rng.uniform(-6, -1, shape)).astype(np.float32)  # decays, some of it slowly
    fan_in = shape[-1] if len(shape) > 1 else 1
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
    weights: npt.NDArray[np.float32] = (gain * rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    return weights
