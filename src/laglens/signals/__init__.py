"""Series with known truth: generated, real, or from a table."""
