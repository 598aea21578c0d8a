"""From a run folder to metrics, tables and images."""
