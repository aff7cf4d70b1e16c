"""The demo: scenes that are judged, and a training that learns."""
