"""Names of the environment variables that the launcher reads. A module without imports: fast."""

SERVE = "BUILDER_SERVE"
"""What to serve and how: one JSON object, see `spec`."""

PROBE_PORT = "BUILDER_PROBE_PORT"
"""Port of the probes; wins over `probe_port` in the JSON object."""

PREFLIGHT = "BUILDER_PREFLIGHT"
"""`on` (default), `warn` (print and go on) or `off`."""

CACHE = "BUILDER_CACHE"
"""Cache root; wins over `/cache` and `/tmp/cache`."""

SOFTWARE = "BUILDER_SOFTWARE"
"""Names the Python code of the image; bytecode of other code is never used for it."""
