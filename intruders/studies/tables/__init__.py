"""A study's results as tables."""
