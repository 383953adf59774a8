"""Quantized weights: each format's stored parts become one weight that is de-quantized when it is read."""
