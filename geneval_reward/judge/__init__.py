"""Is it there: rules over detections, pure numpy."""
