"""The attention heads of all-MiniLM-L6-v2: weights, tokens, texts, a forward pass, and problems made of its heads."""
