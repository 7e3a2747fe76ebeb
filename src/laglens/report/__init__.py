"""The last stage: one page to explore a study, and the verdicts in short."""
