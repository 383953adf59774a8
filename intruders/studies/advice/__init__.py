"""What to change in a fine-tuning, with the evidence."""
