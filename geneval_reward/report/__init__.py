"""What a person looks at: judged images with their boxes, and one-file HTML pages."""
