"""Fine-tuning: one run from its settings to its folder, and the audit during any training."""
