"""What a merged matrix tells of the update in it; not how matrices are found, paired or written."""
