"""Cutting a subject out of a photo: trimap, closed-form alpha, foreground colours. Knows no host and no files but
CLIPSeg's; PyMatting is imported by the functions that need it."""
