"""Advice as text."""
