"""Captions from OpenAI-compatible servers."""
