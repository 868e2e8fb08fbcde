"""Where published files are, and how their bytes become tables: hubs, shards, and one reader a format."""
