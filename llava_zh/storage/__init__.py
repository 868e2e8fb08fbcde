"""Files written so that they survive a crash, and byte ranges read whole: what stands below all other rooms."""
