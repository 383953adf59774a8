"""Files, folders and models in memory to matrices, and back. Nothing is decomposed here."""
