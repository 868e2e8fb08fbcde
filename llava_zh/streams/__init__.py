"""All that touches the insides of `datasets`: the builder, its streams, shuffling and mixing."""
