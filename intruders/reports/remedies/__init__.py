"""A comparison of remedies, as text and as a page."""
