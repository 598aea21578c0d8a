"""Losses: pairs of images and texts, alignment objectives, classification losses, and what crosses processes."""
