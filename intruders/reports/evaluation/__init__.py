"""An evaluation as text."""
