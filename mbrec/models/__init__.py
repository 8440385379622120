"""The methods, one file each. This list of theirs needs neither torch nor DGL to be read."""

BUILT_IN = {
    "bigel": "mbrec.models.bigel",
    "bvae": "mbrec.models.bvae",
    "crgcn": "mbrec.models.crgcn",
    "ghcf": "mbrec.models.ghcf",
    "lightgcn": "mbrec.models.lightgcn",
    "mb-cgcn": "mbrec.models.mb_cgcn",
    "mbgcn": "mbrec.models.mbgcn",
    "mf-bpr": "mbrec.models.mf_bpr",
    "mostpop": "mbrec.models.mostpop",
    "ownhistory": "mbrec.models.ownhistory",
}
"""Name → the module whose `ENTRY` describes the method."""
