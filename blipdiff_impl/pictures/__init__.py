"""Pixels: how a photo becomes what a network sees."""
