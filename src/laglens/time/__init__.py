"""From tokens to time."""
