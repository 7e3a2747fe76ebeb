"""The study a person describes in `config.yaml`; importing it needs neither numpy nor torch."""
