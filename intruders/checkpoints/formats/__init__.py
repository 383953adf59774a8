"""File formats, one a file: headers are checked before anything is believed."""
