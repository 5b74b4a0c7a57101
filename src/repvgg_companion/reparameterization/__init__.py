"""Structural re-parameterization: from train files to deploy files, and the certificate of each."""
