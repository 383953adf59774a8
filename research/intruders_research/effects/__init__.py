"""Effects of many studies side by side: as data, as a forest plot, and as a table."""
