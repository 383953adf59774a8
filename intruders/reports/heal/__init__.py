"""A healing, as text and as a page."""
