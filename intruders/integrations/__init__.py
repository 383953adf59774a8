"""Integrations into other tools, one file each."""
