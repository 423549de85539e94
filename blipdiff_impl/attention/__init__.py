"""Who looks where: attention maps, masks and regions."""
