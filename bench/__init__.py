"""The benches that come with mbrec, one TOML file each; `mbrec bench --list` names them."""
