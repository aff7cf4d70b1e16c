"""The HTTP server that scores images."""
