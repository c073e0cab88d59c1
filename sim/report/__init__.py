"""What every verb says: a view a document, in files here, and formats that write any view."""
