"""How attention passes information through all layers."""
