"""The page of a study by claims, and the lines of a terminal."""
