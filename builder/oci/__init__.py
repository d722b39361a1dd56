"""The OCI image format: tar, layers, store, layout.  Knows nothing about models."""
