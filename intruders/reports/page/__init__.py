"""One HTML page from a template, with everything in it."""
