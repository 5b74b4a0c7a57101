"""Weights files of others: their layouts, their digests, and the way into this companion and back."""
