"""Where the images of rows are, how they are read, and how they are decoded small."""
