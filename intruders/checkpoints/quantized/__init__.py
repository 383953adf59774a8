"""Quantized weights, restored to numbers on reading."""
