"""From a run folder to figures, tables and pictures."""
