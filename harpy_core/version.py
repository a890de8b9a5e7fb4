"""The version, which results and programs are told."""

__version__ = "0.1.0"
