"""How far an update can be scaled before it has intruders."""
