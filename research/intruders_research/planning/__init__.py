"""Estimates before a study runs, from earlier studies: how many seeds, how many hours."""
