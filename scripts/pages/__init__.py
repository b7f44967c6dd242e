"""What does one look at in a browser? README.md lists the files in reading order."""
