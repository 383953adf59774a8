"""Batches of matrices in, proved decisions out. No file, model or console."""
