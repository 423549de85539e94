"""Nodes that serve every method."""
