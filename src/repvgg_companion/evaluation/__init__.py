"""Accuracy of weights files on a validation manifest."""
