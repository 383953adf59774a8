"""Models as transformers loads them, and what they answer."""
