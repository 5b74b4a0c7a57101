"""Experiment files: their model, their schema, and the paths that follow from them."""
