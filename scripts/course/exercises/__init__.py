"""What can one write oneself? One exercise a file; its number is its place. README.md is for learners and teachers."""
