"""Fine-tuning: one run from its settings to its folder, the audit during any training, and tasks in sequence."""
