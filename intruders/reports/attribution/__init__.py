"""Where a rise of the loss sits, as text and as a page."""
