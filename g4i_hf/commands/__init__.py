"""The commands of `g4i`: each reads its options, calls the library and prints. Imports stay light until it runs."""
