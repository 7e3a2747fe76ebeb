"""The models whose attention is read, and how the shipped ones are trained."""
