"""How far a backend agrees with people: the human annotations that accompany the benchmark."""
