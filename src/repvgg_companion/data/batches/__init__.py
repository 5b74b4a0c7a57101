"""From manifests to batches: decode, augment, cache; nothing here knows a network."""
