"""The engine against the reference algorithm and PEFT's own function, side by side: ``python -m benchmarks``."""
