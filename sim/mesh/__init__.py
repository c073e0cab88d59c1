"""What ranks there are and what each of them is."""
