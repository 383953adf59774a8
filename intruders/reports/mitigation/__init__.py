"""A mitigation as text."""
