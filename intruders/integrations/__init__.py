"""Ways into other people's tools, a file each; nothing that is not theirs lives here."""
