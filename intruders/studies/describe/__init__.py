"""A study's file: its experiments, runs and plan."""
