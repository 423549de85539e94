"""Developer commands: set-up, demo, the host with its browser UI. Nothing in here is shipped, the pack imports none."""
