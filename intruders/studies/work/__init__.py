"""A study being done: stages, records, folders, workers."""
