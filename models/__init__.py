"""What the project measures itself with: real and tiny models, the data they see, scores, and the benchmark."""
