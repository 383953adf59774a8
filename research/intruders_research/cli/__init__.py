"""The commands: those of intruders with what claims add to them, and three of their own."""
