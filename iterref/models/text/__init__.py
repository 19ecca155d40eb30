"""Text: tokenizers, prompts and special tokens, from strings to canvases and back."""
