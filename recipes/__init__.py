"""The stages as scripts, each run by `accelerate launch`, and one folder a recipe."""
