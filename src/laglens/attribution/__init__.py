"""Which history samples the forecast itself depends on, and whether attention agrees."""
