"""A verification of a merge, as text."""
