"""What is seen: images, weights, detectors and colour verifiers."""
