"""Build, test and release container images for GPU inference from a pinned stack."""

__version__ = "0.1.0"
