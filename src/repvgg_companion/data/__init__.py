"""From archives to batches: index, verify, read, decode; nothing here knows a network."""
