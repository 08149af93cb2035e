"""The demo language model: a small Llama trained on procedurally generated fictional texts only."""
