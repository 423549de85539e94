"""Training pairs from photos: which photos, their captions, and the subject cut out and put on other backgrounds
(docs/synthesis.md).
"""
