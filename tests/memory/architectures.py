"""Metadata of tiny models of many architectures: llama.cpp makes the tensors that belong to it by itself.

Numbers are odd where they may be, so that a wrong factor shows. As upstream's tests/test-llama-archs.cpp does it.
"""

from pathlib import Path
from typing import Any

import gguf

VOCABULARY = 100
CONTEXT = 4096
_LAYERS, _WIDTH, _HEADS, _KV_HEADS, _HEAD = 12, 128, 4, 2, 32

Metadata = dict[str, Any]


def _dense(**more: Any) -> Metadata:
    return {
        "block_count": _LAYERS,
        "context_length": CONTEXT,
        "embedding_length": _WIDTH,
        "feed_forward_length": 192,
        "vocab_size": VOCABULARY,
        "attention.head_count": _HEADS,
        "attention.head_count_kv": _KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        **more,
    }


def _experts(**more: Any) -> Metadata:
    return _dense(
        **{
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 64,
            "expert_shared_count": 1,
            "expert_shared_feed_forward_length": 64,
            "expert_gating_func": 2,
            "leading_dense_block_count": 1,
            **more,
        }
    )


def _latent(**more: Any) -> Metadata:
    return _experts(
        **{
            "attention.head_count_kv": 1,
            "attention.key_length": 576,
            "attention.value_length": 512,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
            "attention.kv_lora_rank": 512,
            "attention.q_lora_rank": 64,
            "rope.dimension_count": 64,
            **more,
        }
    )


_SSM: Metadata = {"ssm.conv_kernel": 4, "ssm.inner_size": 256, "ssm.state_size": 16, "ssm.time_step_rank": 8}
_SSM2: Metadata = _SSM | {"ssm.group_count": 2}
_DELTA: Metadata = _SSM2 | {"ssm.state_size": 128, "ssm.time_step_rank": 2}
_WINDOW: Metadata = {"attention.sliding_window": 96}
#: Without attention in each third layer.
_SOME_HEADS = [0 if index % 3 == 1 else _KV_HEADS for index in range(_LAYERS)]
_SOME_FEED_FORWARD = [192 if index % 3 == 2 else 0 for index in range(_LAYERS)]
_PATTERN = [index % 3 != 2 for index in range(_LAYERS)]

ARCHITECTURES: dict[str, Metadata] = {
    "llama": _dense(),
    "llama, experts": {"architecture": "llama", **_experts()},
    "llama, other heads": {
        "architecture": "llama",
        **_dense(**{"attention.key_length": 64, "attention.value_length": 64, "rope.dimension_count": 64}),
    },
    "deci": _dense(
        **{
            "attention.head_count": [_HEADS] * _LAYERS,
            "attention.head_count_kv": [1 + index % 2 for index in range(_LAYERS)],
            "feed_forward_length": [192] * _LAYERS,
        }
    ),
    "qwen2": _dense(),
    "qwen2moe": _experts(),
    "qwen3": _dense(**{"attention.key_length": 64, "attention.value_length": 64}),
    "qwen3moe": _experts(),
    "phi2": _dense(),
    "phi3": _dense(**_WINDOW),
    "gemma": _dense(**{"attention.key_length": 64, "attention.value_length": 64}),
    "gemma2": _dense(**_WINDOW),
    "gemma3": _dense(**_WINDOW),
    "gemma3n": _dense(
        **_WINDOW,
        **{
            "block_count": 22,
            "feed_forward_length": [192] * 22,
            "altup.num_inputs": 4,
            "altup.active_idx": 0,
            "embedding_length_per_layer_input": 16,
            "activation_sparsity_scale": [0.0] * 22,
            "attention.shared_kv_layers": 2,
        },
    ),
    "gemma4": _dense(
        **_WINDOW,
        **{
            "attention.sliding_window_pattern": [index % 5 != 4 for index in range(15)],
            "block_count": 15,
            "attention.key_length": 64,
            "attention.value_length": 64,
            "attention.key_length_swa": 32,
            "attention.value_length_swa": 32,
            "attention.shared_kv_layers": 5,
            "embedding_length_per_layer_input": 16,
            "rope.dimension_count_swa": 32,
        },
    ),
    "gpt-oss": _experts(**_WINDOW),
    "cohere2": _dense(**_WINDOW, logit_scale=0.25),
    "command-r": _dense(logit_scale=0.25),
    "olmo2": _dense(**_WINDOW),
    "olmoe": _experts(**{"attention.head_count_kv": _HEADS}),
    "llama4": _experts(interleave_moe_layer_step=2),
    "starcoder2": _dense(),
    "stablelm": _dense(),
    "gptneox": _dense(use_parallel_residual=False, **{"attention.head_count_kv": _HEADS, "rope.dimension_count": 16}),
    "internlm2": _dense(),
    "granite": _dense(logit_scale=8.0),
    "smollm3": _dense(),
    "exaone4": _dense(),
    "glm4moe": _experts(),
    "ernie4_5": _dense(),
    "seed_oss": _dense(),
    "smallthinker": _experts(**_WINDOW),
    "mimo2": _experts(**_WINDOW, **{"attention.sliding_window_pattern": _PATTERN}),
    "minicpm3": _dense(
        **{
            "attention.q_lora_rank": 64,
            "attention.kv_lora_rank": 64,
            "attention.head_count_kv": _HEADS,
            "attention.key_length": 48,
            "attention.value_length": 32,
            "rope.dimension_count": 16,
        }
    ),
    "deepseek": _experts(expert_weights_scale=1.0),
    "deepseek2": _latent(),
    "deepseek2, without MLA": {
        "architecture": "deepseek2",
        **_experts(
            **{
                "attention.head_count_kv": _HEADS,
                "attention.key_length": 48,
                "attention.value_length": 32,
                "attention.kv_lora_rank": 64,
                "attention.q_lora_rank": 64,
                "rope.dimension_count": 16,
            }
        ),
    },
    "kimi-linear": _latent(
        **{
            "attention.head_count": 1,
            "attention.head_count_kv": [0 if index % 4 != 3 else 1 for index in range(_LAYERS)],
            "ssm.conv_kernel": 4,
            "kda.head_dim": 128,
        }
    ),
    "mamba": _dense(**_SSM, **{"attention.head_count": 0, "feed_forward_length": 0}),
    "mamba2": _dense(**_SSM2, **{"attention.head_count": 0, "feed_forward_length": 0}),
    "jamba": _experts(**_SSM, **{"attention.head_count_kv": _SOME_HEADS}),
    "granitehybrid": _dense(**_SSM2, **{"attention.head_count_kv": _SOME_HEADS}),
    "falcon-h1": _dense(**_SSM2),
    "nemotron_h": _dense(
        **_SSM2,
        **{
            "attention.head_count_kv": [0 if index % 3 else _KV_HEADS for index in range(_LAYERS)],
            "feed_forward_length": _SOME_FEED_FORWARD,
        },
    ),
    "plamo2": _dense(
        **_SSM
        | {
            "ssm.group_count": 0,
            "ssm.time_step_rank": 4,
            "ssm.state_size": 64,
            "attention.head_count": [_HEADS] * _LAYERS,
            "attention.head_count_kv": _SOME_HEADS,
        }
    ),
    "lfm2": _dense(**{"shortconv.l_cache": 3, "attention.head_count_kv": _SOME_HEADS}),
    "lfm2, window": {
        "architecture": "lfm2",
        **_dense(**_WINDOW, **{"shortconv.l_cache": 3, "attention.head_count_kv": _SOME_HEADS}),
    },
    "qwen3next": _experts(**_DELTA, full_attention_interval=4),
    "qwen35": _dense(**_DELTA, **{"full_attention_interval": 3, "rope.dimension_sections": [4, 4, 4, 4]}),
    "rwkv7": _dense(
        **{
            "attention.head_count": 0,
            "wkv.head_size": 32,
            "attention.decay_lora_rank": 16,
            "attention.iclr_lora_rank": 16,
            "attention.value_residual_mix_lora_rank": 16,
            "attention.gate_lora_rank": 16,
        }
    ),
    "bert": _dense(**{"attention.causal": False, "pooling_type": 1, "tokenizer.ggml.token_type_count": 2}),
}


def write_metadata(path: Path, name: str) -> None:
    """A GGUF file with what llama.cpp needs to know of an architecture, and no tensors."""
    metadata = dict(ARCHITECTURES[name])
    architecture = metadata.pop("architecture", name)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    for key, value in metadata.items():
        _add(writer, key if key.startswith("tokenizer.") else f"{architecture}.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            raise TypeError(f"{key}: {value!r}")
