"""An attribution of a rise of the loss, as text and as a page."""
