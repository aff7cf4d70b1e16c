"""The HTTP client: a scorer that lives in another process or on another machine."""
