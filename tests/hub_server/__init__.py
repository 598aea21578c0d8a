"""
A Hub of one's own on loopback: it answers the HTTP interface of huggingface.co for the unmodified clients.

Repositories with commits, branches, tags and pull requests; files up to 10 MB inside of commits and larger or binary
ones through LFS; tokens with users and roles; private repositories; the validation of cards; faults on demand.
Not here: Xet (clients need HF_HUB_DISABLE_XET=1), git itself, gated repositories, running Spaces.
"""
