"""Advice on a fine-tuning, with the evidence."""
