"""What a model can do and still knows: losses on text, accuracies, and the kept results."""
