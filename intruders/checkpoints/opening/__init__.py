"""A path, an id or a model in memory to a checkpoint, an adapter or a sum of them."""
