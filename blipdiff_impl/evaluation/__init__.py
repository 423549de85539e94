"""Judging pictures of subjects by the DreamBench protocol (paper section 4.2, docs/method.md 10; docs/evaluation.md).

`benchmark` says what is asked for, `generation` draws it, `towers` and `aesthetic` look at it, `scoring` keeps each
picture's scores, `averages` makes the tables, `published` holds the paper's, `report` shows both. `edit_metrics` judges
edited pictures. The host never imports any of it.
"""
