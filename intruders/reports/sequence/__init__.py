"""A sequence of fine-tunings as text."""
