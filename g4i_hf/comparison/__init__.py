"""Grids of students, variants of training and seeds: cells, their results, and what they say."""
