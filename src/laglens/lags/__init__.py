"""Which lags each head prefers, measured against controls."""
