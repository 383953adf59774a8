"""What an adapter does to the weights of its base, by family."""
