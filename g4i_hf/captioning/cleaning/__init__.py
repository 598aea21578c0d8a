"""From an answer to a caption: pure functions, each with a count."""
