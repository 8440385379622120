"""The command line of mbrec: one file per verb; each parses, calls and prints."""
