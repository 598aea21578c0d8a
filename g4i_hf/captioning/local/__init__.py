"""Captions by a vision-language model in this process."""
