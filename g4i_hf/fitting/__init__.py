"""`g4i fit`, from images to the folder of its result: read command.py from top to bottom."""
