"""Adapters of every family, each read into the same thing: what it does to which weight of the base."""
