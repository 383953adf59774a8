"""What several claims need: comparable runs, statistics, words and pictures."""
