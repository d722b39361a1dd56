"""Entry point, copied to `/opt/builder/__main__.py` in the image."""

import sys

# The image may be read-only, and nothing outside the cache folder is ever written.
sys.dont_write_bytecode = True

from builder.launcher.command import main  # noqa: E402 - the flag above must be set first

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
