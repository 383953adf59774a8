"""Many adapters of one base, audited while the base is read once."""
