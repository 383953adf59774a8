"""Intruders and controls scaled in a model, and where the result goes."""
