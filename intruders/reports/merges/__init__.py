"""Whether a merge holds its adapter, as text."""
