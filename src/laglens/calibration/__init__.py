"""How often the verdicts of a model are wrong, on signals made for it to be wrong on, and how often right."""
