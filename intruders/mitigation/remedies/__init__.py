"""What is changed: the intruders, or a control in their place."""
