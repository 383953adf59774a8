"""The machine: files and folders written whole or not at all, documents, versions, threads. Nothing of models."""
