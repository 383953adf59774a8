"""An inspection of a path as text."""
