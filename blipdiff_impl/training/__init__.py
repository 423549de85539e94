"""The engine of every training: it knows no loss by name."""
