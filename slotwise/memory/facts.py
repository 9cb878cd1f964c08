"""What a model file says about its model, for whoever asks: kind, size, chat template. Read at the start of the server,
so that models need not be loaded for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal

from slotwise.memory.architectures import EMBEDDERS
from slotwise.memory.gguf import GGUFError, GGUFHeader, Value
from slotwise.memory.infilling import infills
from slotwise.memory.shards import read_model

#: llama_ftype (llama.h).
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}


class Pooling(IntEnum):
    """llama_pooling_type (llama.h): what an embedding model makes of its tokens' vectors."""

    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4


Kind = Literal["text", "embedding", "rank"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Of one model as it is served."""

    name: str
    architecture: str = "unknown"
    parameters: int = 0
    quantisation: str = "unknown"
    size_bytes: int = 0
    #: Of the file, in seconds of the epoch.
    modified_at: float = 0.0
    context_train: int = 0
    embedding_length: int = 0
    #: Its chat template, in Jinja.
    template: str | None = None
    #: None: it is made to write, not to embed.
    pooling: Pooling | None = None
    #: It was trained to fill gaps in a text.
    infills: bool = False
    metadata: dict[str, Value] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What it is for."""
        if self.pooling is None:
            return "text"
        return "rank" if self.ranks else "embedding"

    @property
    def ranks(self) -> bool:
        """It says how well a document answers a question."""
        return self.pooling is Pooling.RANK

    @property
    def embeds(self) -> bool:
        return self.pooling is not None and not self.ranks

    @property
    def takes_tools(self) -> bool:
        """Its template has a place for tools."""
        return self.template is not None and "tools" in self.template

    @property
    def thinks(self) -> bool:
        """Its template knows of thoughts before an answer."""
        return self.template is not None and ("<think>" in self.template or "<|channel|>" in self.template)


def read_facts(name: str, path: str) -> ModelFacts:
    """Of a file that may be the first of several. What can not be read is not known."""
    try:
        model = read_model(path)
        modified_at = Path(path).stat().st_mtime
    except (OSError, GGUFError):
        return ModelFacts(name)
    return facts_of(name, model, modified_at)


def facts_of(name: str, model: GGUFHeader, modified_at: float) -> ModelFacts:
    template = model.metadata.get("tokenizer.chat_template")
    return ModelFacts(
        name=name,
        architecture=model.architecture,
        parameters=sum(tensor.elements for tensor in model.tensors),
        quantisation=_FILE_TYPES.get(_whole(model.metadata.get("general.file_type")), "unknown"),
        size_bytes=model.file_bytes,
        modified_at=modified_at,
        context_train=model.integer("context_length", 0),
        embedding_length=model.integer("embedding_length", 0),
        template=template if isinstance(template, str) and template else None,
        pooling=_pooling(model),
        infills=infills(model.metadata, model.marks),
        metadata=model.metadata,
    )


def _pooling(model: GGUFHeader) -> Pooling | None:
    """As the file says; and an encoder of which it says nothing can do nothing but embed."""
    said = _whole(model.value("pooling_type"))
    if said in set(Pooling) - {Pooling.NONE}:
        return Pooling(said)
    return Pooling.MEAN if model.architecture in EMBEDDERS else None


def _whole(value: Value) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
