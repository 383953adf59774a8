"""What several reports use: a page of a terminal, and grids of layers and modules."""
