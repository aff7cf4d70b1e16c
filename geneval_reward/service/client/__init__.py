"""The HTTP client: a scorer in another process or on another machine."""
