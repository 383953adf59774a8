"""The doses of an update that recover what a fine-tuning forgot and keep what it learned."""
