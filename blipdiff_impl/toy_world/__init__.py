"""The procedural world that the built-in models know: it renders, and knows no model."""
