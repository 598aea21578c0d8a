"""Captions beside their pictures: the report of a stage, the page and the grid of a dry run."""
