"""
A Hub of one's own on loopback: it answers what unmodified clients ask of huggingface.co, for one user and some others.

Repositories with commits and branches, files within commits and through LFS, tokens with roles, private repositories,
a validation of cards, faults on demand. Not here: Xet (clients need HF_HUB_DISABLE_XET=1), pull requests, tags, git.
"""
