"""Ollama's own API, for clients that speak nothing else."""
