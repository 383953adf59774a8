"""What models learn from and are measured on: tasks and text corpora."""
