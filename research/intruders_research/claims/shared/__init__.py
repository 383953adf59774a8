"""Shared code of the claims: comparable runs, statistics, words and pictures."""
