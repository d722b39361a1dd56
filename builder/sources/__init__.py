"""Ask the world for a pin, and fetch a pinned file."""
