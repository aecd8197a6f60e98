"""Data: the generated world, conversations and captions in the official shapes, the tokenizer."""
