"""llama.cpp behind the seam `workers/model`: the only package that imports llama_cpp.

Facts this is built on (llama-cpp-python 0.3.36; research notes memory.md and llama-server.md section 5):
- The bindings open the library with `CDLL`, which gives the GIL away on every call. Right for decode and sampling,
  wrong for tiny calls, which are made through a second handle of class `PyDLL`.
- More rows than `n_batch`, or more outputs than `n_outputs_max`, abort the process: both are checked here.
- With `kv_unified` all sequences share one pool of cells and may own cells together. Without it each has its own: a
  part of a sequence can not be copied between two of them (that aborts), so all of it is, and then the rest is removed.
- On a CPU a row's result depends on its company in three places: repacked weights (AMX and others), flash attention
  over f16 or f32 cells (tiles from 64 rows, split over threads for one row: ggml-cpu/ops.cpp), and the order of a
  sequence's cells in the pool. `LoadModel.reproducible` avoids all three.
"""

from slotwise.workers.llama.batch import BatchBuffers
from slotwise.workers.llama.embedder import LlamaEmbedder
from slotwise.workers.llama.library import LoadError
from slotwise.workers.llama.model import LlamaModel
from slotwise.workers.llama.vocabulary import LlamaVocabulary, load_vocabulary

__all__ = ["BatchBuffers", "LlamaEmbedder", "LlamaModel", "LlamaVocabulary", "LoadError", "load_vocabulary"]
