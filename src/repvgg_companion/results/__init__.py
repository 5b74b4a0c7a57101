"""Collected result tables, their provenance and the report."""
