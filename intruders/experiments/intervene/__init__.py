"""Losses and scores of a model whose intruders, or controls, are scaled in memory."""
