"""What llama.cpp's code says of each architecture, beside what files say: tables for `shape`.

Source: src/models/*.cpp (`load_arch_hparams`) and `llama_model::create_memory` of the pinned build.
"""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Which layers have a window, where the file does not say: of each `every` layers all but one, which is the last
    of them, or the first."""

    every: int = 0  # 0: the file has to say it
    dense_first: bool = False
    #: Tokens of it, where the file does not say; 0: then there is none.
    default: int = 0
    #: Tokens of it, whatever the file says, unless that is 0.
    always: int = 0


WINDOWS = {
    "afmoe": Window(4),
    "cohere2": Window(4),
    "cohere2moe": Window(4, dense_first=True),
    "exaone-moe": Window(4, default=128),
    "exaone4": Window(4, default=4096),
    "gemma2": Window(2, default=4096),
    "gemma3": Window(6),
    "gemma3n": Window(5),
    "gemma4": Window(),
    "gpt-oss": Window(2),
    "granite_swa": Window(),
    "laguna": Window(4, dense_first=True),
    "llama4": Window(4, default=8192, always=8192),
    "lfm2": Window(),
    "maple": Window(),
    "mellum": Window(4),
    "mimo2": Window(),
    "muse-glimmer": Window(4),
    "olmo2": Window(4),
    "plamo3": Window(8),
    "smallthinker": Window(4, dense_first=True, always=4096),
    "spark2_5": Window(),
    "step35": Window(),
}
EXAONE4_WINDOWED_LAYERS = 64
GEMMA3N_LAYERS_WITH_CELLS = 20

#: Models for which llama.cpp turns flash attention off (llama-context.cpp, llama_init_from_model).
WITHOUT_FLASH = frozenset({"grok"})
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
#: Layers without key and value heads are recurrent.
BY_HEADS = frozenset({"jamba", "granitehybrid", "lfm2", "lfm2moe", "plamo2", "kimi-linear", "bailingmoe3"})
NEMOTRON = frozenset({"nemotron_h", "nemotron_h_moe"})
#: Layers are recurrent but for each n-th, by this default.
BY_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "minimax-01": 8}
HYBRID = BY_HEADS | NEMOTRON | BY_INTERVAL.keys() | {"falcon-h1"}
#: Mamba 1 has no groups, whatever the file says.
WITHOUT_GROUPS = frozenset({"mamba", "jamba"})
LATENT = frozenset({"deepseek2", "mistral4", "kimi-linear", "bailingmoe3"})
_NAMES_OF_EMBEDDERS = """
bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert modern-bert gemma-embedding
"""
_NAMES_OF_DIFFUSION = "dream llada llada-moe rnd1"
_NAMES_OF_PLAIN = """
llama llama-embed deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder starcoder2 refact bloom stablelm qwen qwen2
qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe phi2 phi3 phimoe plamo codeshell orion internlm2 minicpm minicpm3
gemma xverse command-r dbrx olmo olmoe openelm arctic deepseek chatglm glm4 glm4moe bitnet jais jais2 nemotron exaone
granite granitemoe chameleon plm bailingmoe bailingmoe2 dots1 arcee ernie4_5 ernie4_5-moe hunyuan-moe hunyuan-dense
hunyuan_vl hy_v3 smollm3 seed_oss grovemoe apertus minimax-m2 cogvlm pangu-embedded mistral3 paddleocr maincoder
nanbeige
"""
#: Encoders: they can write nothing.
EMBEDDERS = frozenset(_NAMES_OF_EMBEDDERS.split())
#: Each text is computed at once, and nothing is kept of it.
WITHOUT_MEMORY = EMBEDDERS | frozenset(_NAMES_OF_DIFFUSION.split())
#: Every layer has plain attention over all tokens.
_PLAIN = frozenset(_NAMES_OF_PLAIN.split())
KNOWN = _PLAIN | WITHOUT_MEMORY | RECURRENT | HYBRID | LATENT | WINDOWS.keys()
