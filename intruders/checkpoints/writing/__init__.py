"""Models and adapters, written shard by shard."""
