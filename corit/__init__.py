"""CoRIT: a deepfake detector built on the gradient signal-to-noise ratio."""
