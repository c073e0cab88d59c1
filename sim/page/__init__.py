"""One HTML page over the documents of a verb: sections and charts, for screen and print."""
