"""The methods that mbrec offers: one file per method, one registry."""
