"""The tables of each result page, from its published data."""
