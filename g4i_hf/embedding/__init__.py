"""Captions -> text embeddings, by a frozen encoder."""
