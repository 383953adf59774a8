"""The ground of experiments: models that are changed and measured, and data in halves."""
