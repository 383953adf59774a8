"""What can be said of a study before it runs, from what earlier ones measured: how many seeds, how many hours."""
