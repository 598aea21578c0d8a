"""Captions that exist already: read, joined to their images, their order checked."""
