"""Is an answer right, and if not, what is wrong with it? README.md follows one check through the files."""
