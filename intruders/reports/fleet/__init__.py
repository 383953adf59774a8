"""A fleet, as text and as a page."""
