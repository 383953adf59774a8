"""Several tasks one after another: train on them in turn, and measure what is forgotten."""
