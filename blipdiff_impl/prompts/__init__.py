"""Text to positions: where in the prompt is what?"""
