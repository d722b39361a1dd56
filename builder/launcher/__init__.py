"""PID 1 of the image: checks the host, starts the engine, warms it, watches it, drains it.

Runs inside the image as `python3 -I -S /opt/builder`, so everything here uses the standard library
only, in the syntax of Python 3.10, and imports nothing of ours but `builder.launcher`.
"""
