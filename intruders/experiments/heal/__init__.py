"""The doses of an update that give back what a fine-tuning forgot and keep what it learned."""
