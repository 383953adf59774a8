"""A format, a remedy, a task, a corpus and a claim for intruders."""
