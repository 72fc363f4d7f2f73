"""What a model's graph says of its channels: calls, kinds of layers, tied sets, silence."""
