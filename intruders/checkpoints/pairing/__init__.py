"""A base and a tuned model, matched matrix by matrix."""
