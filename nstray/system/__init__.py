"""The process and its machine: streams, signals, temporary folders, and what is missing there."""
