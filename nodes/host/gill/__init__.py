"""What the nodes of GILL do on the host's own objects."""
