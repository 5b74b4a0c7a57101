"""Weights files of others: recognise, convert, check and fetch them."""
