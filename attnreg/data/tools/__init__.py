"""Commands that make data: `fetch_minilm` gets the model, `embed` makes the shipped files anew."""
