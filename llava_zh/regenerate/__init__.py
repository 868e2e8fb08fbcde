"""Regenerate captions and conversations with a vision-language model."""
