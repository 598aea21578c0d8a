"""A classifier and images that it has never seen: their classes, and which of them to leave to a person."""
