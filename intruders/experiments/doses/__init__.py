"""A model in memory with every update in a dose."""
