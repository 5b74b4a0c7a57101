"""Structural re-parameterization: convert train files to deploy files and certify each."""
