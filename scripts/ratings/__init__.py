"""07: scores from 0.0 to 10.0."""
