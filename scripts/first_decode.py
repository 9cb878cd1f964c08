"""Decode a few tokens of the demo model in this process, which dies if the build does not fit the CPU."""

from slotwise.loads import demo_model_path
from slotwise.workers.llama import LlamaModel
from slotwise.workers.protocol import LoadModel

LlamaModel(LoadModel("demo", demo_model_path(), 1, 256), lambda stage, fraction: None).warm_up()
