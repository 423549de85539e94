"""Files of tensors, for any method: is this file whole, safe, and what it should be?"""
