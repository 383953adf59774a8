"""A checkpoint as names and tensors: where it lies, what its names mean, which matrices it has."""
