"""The methods, one file each. This list of theirs needs neither torch nor DGL to be read."""

BUILT_IN = {
    "bigel": "mbrec.models.bigel",
    "crgcn": "mbrec.models.crgcn",
    "lightgcn": "mbrec.models.lightgcn",
    "mostpop": "mbrec.models.mostpop",
}
"""Name → the module whose `ENTRY` describes the method."""
