"""The commands of `g4i`: each reads its options, calls the library and prints. Heavy imports wait until it runs."""
