"""Numbers: matrices as values with products, decompositions, and proofs about them. No file, model or console."""
