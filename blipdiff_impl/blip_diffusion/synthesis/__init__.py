"""Training pairs from photos: which photos, their captions, and the subject cut out and put on other grounds
(docs/synthesis.md).
"""
