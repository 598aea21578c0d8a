"""What the commands do, from options to files: a room a command, each above all others."""
