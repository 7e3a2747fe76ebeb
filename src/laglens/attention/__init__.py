"""Read the attention of a model as labelled cubes."""
