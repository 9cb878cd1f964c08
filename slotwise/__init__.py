"""slotwise: a concurrency-aware inference scheduler and worker pool behind an OpenAI endpoint."""

__version__ = "0.1.0"
