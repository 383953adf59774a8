"""Where a rise of the loss sits: its parts by matrix, direction, layer and kind of module, which sum to it."""
