"""What operates on whole archives of SA-1B: download, status, verify, repack."""
