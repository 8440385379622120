"""`python -m mbrec`: the same as the `mbrec` command."""

from mbrec.cli.main import main

main()
