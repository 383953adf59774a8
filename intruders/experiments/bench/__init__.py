"""The parts that experiments share: models that are changed and measured, and data in halves."""
