"""mbrec: ranked lists for every user and every behavior, from the event log of a shop."""

from mbrec.version import __version__

__all__ = ["__version__"]
