"""What generation means: the loop and its rules. Knows no session, no file and no text."""
