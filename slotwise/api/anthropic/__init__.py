"""Anthropic's API: POST /v1/messages and the counting of its tokens."""
