"""Advice that rests on the verdicts of studies."""
