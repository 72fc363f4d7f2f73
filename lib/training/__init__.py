"""One compiled step, and Keras' loop around it."""
