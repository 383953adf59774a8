"""Where a mitigation writes: an adapter, a model in memory, a checkpoint."""
