"""The tables of a study without its models: written for others, checked, and taken over into their studies."""
