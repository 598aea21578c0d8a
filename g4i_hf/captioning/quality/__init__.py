"""How far a caption can be trusted: `caption_weight` and the figures behind it."""
