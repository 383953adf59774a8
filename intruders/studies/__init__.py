"""The paper's experiments as one resumable run: described, done, tabulated, and concluded."""
