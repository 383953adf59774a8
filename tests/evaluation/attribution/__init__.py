"""Tests of attributions."""
