"""One file a verb: options in, a call to the layer below, a printed result."""
