"""Turn web video into datasets of object tracks: the library that the six scripts share."""

__version__ = "1.0.0"
