"""What a person looks at: reports of results files, and pages of judged images, each as one HTML file."""
