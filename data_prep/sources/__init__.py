"""The raw formats that mbrec reads: one file per format."""
