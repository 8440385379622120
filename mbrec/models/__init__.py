"""The methods, one file each. This list of theirs needs neither torch nor DGL to be read."""

BUILT_IN = {
    "bigel": "mbrec.models.bigel",
    "bigel-plus": "mbrec.models.bigel_plus",
    "bvae": "mbrec.models.bvae",
    "cascadingrank": "mbrec.models.cascadingrank",
    "crgcn": "mbrec.models.crgcn",
    "ease": "mbrec.models.ease",
    "ghcf": "mbrec.models.ghcf",
    "itemknn": "mbrec.models.itemknn",
    "userknn": "mbrec.models.userknn",
    "lightgcn": "mbrec.models.lightgcn",
    "mb-cgcn": "mbrec.models.mb_cgcn",
    "mb-gmn": "mbrec.models.mb_gmn",
    "mbgcl": "mbrec.models.mbgcl",
    "mbgcn": "mbrec.models.mbgcn",
    "mbrcc": "mbrec.models.mbrcc",
    "mf-bpr": "mbrec.models.mf_bpr",
    "mostpop": "mbrec.models.mostpop",
    "ownhistory": "mbrec.models.ownhistory",
}
"""Name → the module whose `ENTRY` describes the method."""
