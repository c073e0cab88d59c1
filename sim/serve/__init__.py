"""The live page: a server for one person's own machine, its JSON API, and the page that asks it."""
