"""Remedies measured side by side on one model, against what else could explain what they do."""
