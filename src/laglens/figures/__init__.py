"""Publishable figures of one run, of a comparison and of a training: labelled objects in, figures out."""
